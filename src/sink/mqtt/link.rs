//! The connection to a broker. The only file that names the client crate.
//!
//! One thread drives the connection and reconnects with growing pauses. Publications are confirmed one by one; what was not
//! confirmed when a connection broke is given back to its sender, who publishes it again.

use super::Settings;
use crate::{
    machine,
    outage::{Change, Limits, Outage},
};
use anyhow::{Context, Result, anyhow, bail};
use rumqttc::{
    AsyncClient, Broker, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Outgoing, Packet,
    PublishNoticeError, PublishOptions, PublishResult, QoS, SubscribeReasonCode, TlsConfiguration, Transport,
};
use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    task::{Context as Waiting, Poll, Waker},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A broker that closes sooner than this has not been back.
const STABLE: Duration = Duration::from_secs(5);
const LIMITS: Limits =
    Limits { pause_min: Duration::from_millis(250), pause_max: Duration::from_secs(15), stable: STABLE };
/// How long a listener waits for a broker to agree.
const LISTEN_WAIT: Duration = Duration::from_secs(10);
/// Requests between a sink and its connection.
const REQUESTS: usize = 16;
/// Incoming publications that wait; more are not read.
const INCOMING: usize = 64;
/// Bytes of the largest packet that is taken from a broker, and of the largest that is sent.
const PACKET_BYTES_MAX: usize = 256 * 1024;

/// A last will: topic and payload, retained.
pub struct Will<'a> {
    pub topic: String,
    pub payload: &'a str,
}

/// What the client crate needs, with the files read. An error names the file and its key.
pub fn options(settings: &Settings, client_id: &str, will: Option<Will<'_>>) -> Result<MqttOptions> {
    let mut options = MqttOptions::new(client_id, Broker::tcp(settings.host().to_string(), settings.port()));
    options.set_keep_alive(settings.keep_alive_s);
    options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if settings.password_file.as_os_str().is_empty() {
        if !settings.user.is_empty() {
            options.set_username(settings.user.clone());
        }
    } else {
        let text = read(&settings.password_file, "password_file")?;
        let password = text.split(|&byte| byte == b'\n' || byte == b'\r').next().unwrap_or_default();
        options.set_credentials(settings.user.clone(), password.to_vec());
    }
    if settings.tls {
        options.set_transport(Transport::Tls(tls(settings)?));
    }
    if let Some(will) = will {
        options.set_last_will(LastWill::new(will.topic, will.payload, QoS::AtLeastOnce, true));
    }
    Ok(options)
}

fn tls(settings: &Settings) -> Result<TlsConfiguration> {
    if settings.ca.as_os_str().is_empty() {
        return TlsConfiguration::try_default_rustls().map_err(|error| anyhow!("{error:?}")).context(
            "reading the machine's certificate authorities: install ca-certificates or set sink.mqtt.ca",
        );
    }
    let client_auth = match settings.client_cert.as_os_str().is_empty() {
        true => None,
        false => {
            Some((read(&settings.client_cert, "client_cert")?, read(&settings.client_key, "client_key")?))
        }
    };
    Ok(TlsConfiguration::Simple { ca: read(&settings.ca, "ca")?, alpn: None, client_auth })
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {} (sink.mqtt.{key})", path.display()))
}

/// What the thread that drives the connection tells.
#[derive(Default)]
struct Shared {
    up: AtomicBool,
    /// Counts connections.
    generation: AtomicU32,
    losses: AtomicU64,
    stop: AtomicBool,
}

pub struct Link {
    client: AsyncClient,
    shared: Arc<Shared>,
    incoming: Receiver<Publication>,
    thread: Option<JoinHandle<()>>,
}

/// Something that a broker delivers.
#[derive(Debug)]
pub struct Publication {
    pub topic: String,
    pub payload: Vec<u8>,
}

/// A publication on its way.
pub struct Receipt {
    notice: Pin<Box<dyn Future<Output = Result<PublishResult, PublishNoticeError>> + Send>>,
    progress: Progress,
}

/// How far a publication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Pending,
    Confirmed,
    /// The connection broke before the broker confirmed.
    GivenBack,
}

impl Receipt {
    pub fn progress(&mut self) -> Progress {
        if self.progress == Progress::Pending {
            self.progress = match self.notice.as_mut().poll(&mut Waiting::from_waker(Waker::noop())) {
                Poll::Pending => Progress::Pending,
                Poll::Ready(Ok(_)) => Progress::Confirmed,
                Poll::Ready(Err(_)) => Progress::GivenBack,
            };
        }
        self.progress
    }
}

impl Link {
    /// Starts the thread; a broker that does not answer is tried again and again.
    pub fn open(options: MqttOptions, address: &str, seed: u64) -> Result<Link> {
        let (client, events) = AsyncClient::builder(options)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|error| anyhow!("{error:?}"))
            .context("preparing the MQTT client")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing the MQTT connection")?;
        let shared = Arc::new(Shared::default());
        let (sender, incoming) = sync_channel(INCOMING);
        let drive = Drive {
            events,
            runtime,
            shared: Arc::clone(&shared),
            sender,
            address: address.to_string(),
            outage: Outage::new(LIMITS, seed),
        };
        let thread = std::thread::Builder::new()
            .name("mqtt-link".into())
            .spawn(move || drive.run())
            .context("starting the thread of the MQTT connection")?;
        Ok(Link { client, shared, incoming, thread: Some(thread) })
    }

    pub fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    /// Another number for each connection.
    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Times the broker was lost.
    pub fn losses(&self) -> u64 {
        self.shared.losses.load(Ordering::Relaxed)
    }

    /// Hands a publication with QoS 1 to the connection, if it has room.
    pub fn publish(&self, topic: String, payload: Vec<u8>, retain: bool) -> Option<Receipt> {
        let options = PublishOptions::new(QoS::AtLeastOnce).retain(retain);
        let notice = self.client.try_publish_tracked(topic, payload, options).ok()?;
        Some(Receipt { notice: Box::pin(notice.wait_async()), progress: Progress::Pending })
    }

    /// Asks for topics; `None` where the connection has no room.
    pub fn subscribe(&self, filters: &[String]) -> Option<Subscription> {
        let filters =
            filters.iter().map(|filter| rumqttc::SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        let notice = self.client.try_subscribe_many_tracked(filters).ok()?;
        let granted = async move {
            let ack = notice.wait_async().await.ok()?;
            Some(ack.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))))
        };
        Some(Subscription(Box::pin(granted)))
    }

    pub fn unsubscribe(&self, filters: &[String]) {
        for filter in filters {
            let _ = self.client.try_unsubscribe(filter.clone());
        }
    }

    /// The next publication that has come.
    pub fn next(&self, wait: Duration) -> Option<Publication> {
        self.incoming.recv_timeout(wait).ok()
    }

    /// Says goodbye, so that the last will is not sent, and waits for the connection to end.
    pub fn disconnect(&mut self, wait: Duration) {
        let deadline = Instant::now() + wait;
        self.shared.stop.store(true, Ordering::Release);
        if self.client.try_disconnect_with_timeout(wait).is_err() {
            return;
        }
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Topics that were asked for.
pub struct Subscription(Pin<Box<dyn Future<Output = Option<bool>> + Send>>);

impl Subscription {
    /// `None` while the broker has not answered; whether it grants all of them.
    pub fn granted(&mut self) -> Option<bool> {
        match self.0.as_mut().poll(&mut Waiting::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(granted) => Some(granted.unwrap_or(false)),
        }
    }
}

struct Drive {
    events: EventLoop,
    runtime: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    sender: SyncSender<Publication>,
    address: String,
    outage: Outage,
}

impl Drive {
    /// Keeps the connection going until told to stop.
    fn run(mut self) {
        loop {
            match self.runtime.block_on(self.events.poll()) {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    self.shared.generation.fetch_add(1, Ordering::AcqRel);
                    self.shared.up.store(true, Ordering::Release);
                    if self.outage.losses() == 0 {
                        log::info!("connected broker={}", self.address);
                    }
                    self.works();
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => break,
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    self.works();
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let _ = self.sender.try_send(Publication { topic, payload: publish.payload.to_vec() });
                }
                Ok(Event::Incoming(_)) => self.works(),
                Ok(_) => {}
                Err(error) => {
                    self.shared.up.store(false, Ordering::Release);
                    if self.shared.stop.load(Ordering::Acquire) {
                        break;
                    }
                    self.lost(&error);
                }
            }
        }
        self.shared.up.store(false, Ordering::Release);
    }

    fn works(&mut self) {
        if let Some(Change::Back(away)) = self.outage.works(Instant::now()) {
            log::warn!("broker is back broker={} away_s={}", self.address, away.as_secs());
        }
    }

    fn lost(&mut self, error: &ConnectionError) {
        let now = Instant::now();
        if self.outage.fails(now) == Some(Change::Lost) {
            log::warn!("broker is away, trying again broker={}: {}", self.address, plain(error));
        }
        self.shared.losses.store(self.outage.losses(), Ordering::Relaxed);
        let until = now + self.outage.pause(now);
        while Instant::now() < until && !self.shared.stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn plain(error: &ConnectionError) -> String {
    use rumqttc::ConnectReturnCode as Code;
    match error {
        ConnectionError::ConnectionRefused(Code::NotAuthorized | Code::BadUserNamePassword) => {
            "the broker refuses user or password (sink.mqtt.user, sink.mqtt.password_file)".into()
        }
        other => other.to_string(),
    }
}

/// Connects once and says why it does not work; the connection is closed again.
pub fn try_once(
    settings: &Settings,
    client_id: &str,
    wait: Duration,
    asks: &[String],
) -> Result<Vec<Publication>> {
    let mut seen = Vec::new();
    let listener = Listener::connect(settings, client_id, asks, wait)?;
    let until = Instant::now() + Duration::from_millis(300);
    while let Some(publication) = listener.next(until.saturating_duration_since(Instant::now()))? {
        seen.push(publication);
    }
    Ok(seen)
}

/// The other side: a client that listens to topics and ends with its connection.
pub struct Listener {
    publications: Receiver<Result<Publication>>,
    _client: AsyncClient,
}

impl Listener {
    /// For `mien watch`: one filter, under a client id of its own.
    pub fn open(settings: &Settings, filter: &str) -> Result<Listener> {
        let id = format!("mien-watch-{:08x}", machine::random()? as u32);
        Listener::connect(settings, &id, &[filter.to_string()], LISTEN_WAIT)
    }

    /// Subscribes to filters; comes back when the broker has agreed, or with why not.
    pub fn connect(
        settings: &Settings,
        client_id: &str,
        filters: &[String],
        wait: Duration,
    ) -> Result<Listener> {
        let address = settings.address();
        let (client, mut events) = AsyncClient::builder(options(settings, client_id, None)?)
            .capacity(REQUESTS)
            .try_build()
            .map_err(|error| anyhow!("{error:?}"))
            .context("preparing the MQTT client")?;
        for filter in filters {
            client
                .try_subscribe(filter.clone(), QoS::AtLeastOnce)
                .with_context(|| format!("subscribing to {filter}"))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing the MQTT connection")?;
        let (sender, publications) = sync_channel(INCOMING);
        let (ready, agreed) = sync_channel(1);
        let mut missing = filters.len();
        let broker = address.clone();
        std::thread::Builder::new()
            .name("mqtt-listen".into())
            .spawn(move || {
                loop {
                    let said = match runtime.block_on(events.poll()) {
                        Ok(Event::Incoming(Packet::Publish(publish))) => Ok(Publication {
                            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                            payload: publish.payload.to_vec(),
                        }),
                        Ok(Event::Incoming(Packet::SubAck(_))) => {
                            missing -= 1;
                            if missing == 0 {
                                let _ = ready.try_send(());
                            }
                            continue;
                        }
                        Ok(_) => continue,
                        Err(error) => {
                            Err(anyhow!("{}", plain(&error)).context(format!("the broker {broker}")))
                        }
                    };
                    let over = said.is_err();
                    if sender.send(said).is_err() || over {
                        break;
                    }
                }
            })
            .context("starting the thread that listens")?;
        let listener = Listener { publications, _client: client };
        match agreed.recv_timeout(wait) {
            Ok(()) => Ok(listener),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the broker {address} does not answer within {} s", wait.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => match listener.next(Duration::ZERO) {
                Err(error) => Err(error),
                Ok(_) => bail!("the broker {address} closed the connection"),
            },
        }
    }

    /// The next publication, or `None` when nothing came in time.
    pub fn next(&self, wait: Duration) -> Result<Option<Publication>> {
        match self.publications.recv_timeout(wait) {
            Ok(said) => said.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("the connection to the broker is over"),
        }
    }
}
