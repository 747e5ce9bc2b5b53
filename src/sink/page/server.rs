//! The HTTP side of the page: one thread, GET only.
//!
//! Who may read: whoever has the token, where there is one. Without a token a request must name this machine as its host, so that a page
//! of another site whose name was pointed at us reads nothing. The page may load nothing from anywhere else (its content policy).

use super::{settings::Listener, shown::Shown};
use anyhow::{Context, Result};
use http_body_util::{Either, Full, channel::Channel};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::ready,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// More have to wait.
pub const CONNECTIONS_MAX: usize = 32;
/// Lines that a reader may be behind.
const LINES_BEHIND_MAX: usize = 256;
const HEADER_BYTES_MAX: usize = 16 << 10;
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How soon a stop is seen.
const STEP: Duration = Duration::from_millis(100);
const PAGE: &str = include_str!("page.html");
/// What the page may load: what is inside it, and its own server's events.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

/// The thread that serves.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(listener: Listener, token: Option<String>, shown: Arc<Shown>) -> Result<Server> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the page's runtime")?;
        let listener = {
            let _inside = runtime.enter();
            Socket::new(listener).context("listening for the page")?
        };
        let stop = Arc::new(AtomicBool::new(false));
        let site = Arc::new(Site { shown, token, local: matches!(listener, Socket::Unix(_)) });
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("page".into())
            .spawn(move || runtime.block_on(serve(listener, site, until)))
            .context("starting the thread of the page")?;
        Ok(Server { stop, thread: Some(thread) })
    }

    /// Ends the thread and every connection.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the page's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    fn new(listener: Listener) -> io::Result<Socket> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(listener)?)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Socket::Unix(UnixListener::from_std(listener)?)
            }
        })
    }
}

struct Site {
    shown: Arc<Shown>,
    token: Option<String>,
    /// Only processes of this machine can connect.
    local: bool,
}

async fn serve(listener: Socket, site: Arc<Site>, stop: Arc<AtomicBool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while !stop.load(Ordering::Acquire) {
        let Ok(Ok(permit)) = timeout(STEP, Arc::clone(&room).acquire_owned()).await else { continue };
        let site = Arc::clone(&site);
        let accepted = async {
            match &listener {
                Socket::Tcp(socket) => socket.accept().await.map(|(stream, _)| spawn(stream, site, permit)),
                Socket::Unix(socket) => socket.accept().await.map(|(stream, _)| spawn(stream, site, permit)),
            }
        };
        if let Ok(Err(error)) = timeout(STEP, accepted).await {
            log::warn!("the page cannot take a connection: {error}");
            tokio::time::sleep(STEP).await;
        }
    }
}

fn spawn(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    site: Arc<Site>,
    permit: OwnedSemaphorePermit,
) {
    let answer = service_fn(move |request| ready(Ok::<_, Infallible>(respond(&request, &site))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            log::debug!("a connection of the page ended: {error}");
        }
        drop(permit);
    });
}

fn respond(request: &Request<Incoming>, site: &Site) -> Response<Body> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    }
    if let Some(token) = &site.token {
        if !presented(request).is_some_and(|given| same(given.as_bytes(), token.as_bytes())) {
            return plain(StatusCode::UNAUTHORIZED, "the token is missing or wrong: ask for /?token=TOKEN\n");
        }
    } else if !site.local && !names_this_machine(request) {
        return plain(
            StatusCode::FORBIDDEN,
            "this page is for this machine: open it as 127.0.0.1 or localhost\n",
        );
    }
    match request.uri().path() {
        "/" => typed(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        "/metrics" => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", site.shown.metrics()),
        "/health" => {
            let (well, text) = site.shown.health();
            let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            typed(status, "application/json", text)
        }
        "/events" => events(&site.shown),
        _ => plain(StatusCode::NOT_FOUND, "there are /, /events, /metrics and /health\n"),
    }
}

fn events(shown: &Shown) -> Response<Body> {
    let (mut sender, body) = Channel::new(LINES_BEHIND_MAX);
    shown.add(Box::new(move |text| {
        sender.try_send(Frame::data(Bytes::copy_from_slice(text.as_bytes()))).is_ok()
    }));
    respond_with("text/event-stream", StatusCode::OK, Either::Right(body))
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

fn typed(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    respond_with(kind, status, Either::Left(Full::from(text)))
}

fn respond_with(kind: &'static str, status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The token in the header `Authorization: Bearer` or in the query.
fn presented(request: &Request<Incoming>) -> Option<&str> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| value.strip_prefix("Bearer "));
    let query = || request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("token="));
    bearer.or_else(query)
}

/// Compares in a time that says nothing of where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn names_this_machine(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
