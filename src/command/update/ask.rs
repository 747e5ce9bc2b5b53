//! `mien update --ask`: an offer is asked for, taken or not, and the broker is told what became of it.

use super::install::{Left, certified, install, name};
use crate::{
    command::{Refused, say},
    config::{self, Config},
    machine,
    sink::mqtt::{self, Link, Listener, Progress},
    update::{
        engine::{self, CERTIFICATE},
        offer::{self, Answer, End, Offer, Taken},
        slots::{Slot, Slots, Standing},
        stage::Places,
    },
};
use anyhow::{Context, Error, Result, bail, ensure};
use serde_json::json;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// For the broker to agree, and for what it keeps to come.
const BROKER_WAIT: Duration = Duration::from_secs(10);
const OFFER_WAIT: Duration = Duration::from_secs(3);

/// What the broker is told, retained, under the device's topic `update`.
struct Report<'a> {
    state: &'a str,
    why: String,
}

pub fn run(places: &Places, config: &Path, topic: &str) -> Result<()> {
    certified()?;
    let config = config::read(config)
        .with_context(|| Refused(format!("cannot use the config {}", config.display())))?;
    let Some(settings) = &config.sink.mqtt else {
        return Err(
            Error::msg("the config has no [sink.mqtt]").context(Refused("whom to ask is not known".into()))
        );
    };
    let Some(message) = kept(settings, topic)? else {
        say(format_args!("{}: no offer at {topic}", settings.address()));
        return Ok(());
    };
    let offer = Offer::open(&message, Path::new(CERTIFICATE))
        .with_context(|| Refused(format!("the offer at {topic} is refused")))?;
    say(format_args!("{}: version {} for {} % of {}", topic, offer.version, offer.percent, offer.compatible));
    let place = offer.place(&machine::id());
    let tell = |report: &Report<'_>| tell(&config, settings, &offer, place, report, places);
    let mut taken = Taken::load(&places.store);
    let on_trial = Slot::ALL.iter().any(|&slot| {
        places.booted() == Some(slot)
            && matches!(Slots::load(&places.store).standing(slot), Standing::Trial(_))
    });
    ensure!(!on_trial, "a version is on trial here: ask again when it is settled");

    let answer = match running(places).as_deref() == Some(offer.version.as_str()) {
        true if offer.made >= taken.made && offer.compatible == engine::compatible()? => {
            Answer::Over(End::Good)
        }
        _ => offer::answer(&offer, &taken, &engine::compatible()?, place),
    };
    if answer == Answer::Old {
        return Err(Error::msg("a newer one was seen before").context(Refused("the offer is refused".into())));
    }
    if answer == Answer::OtherBoard {
        say(format_args!("it is not for this board, which is {}", engine::compatible()?));
        return Ok(());
    }
    taken.made = offer.made;
    taken.store(&places.store)?;
    match answer {
        Answer::Waits => tell(&Report { state: "waiting", why: format!("its place is {place} of 100") }),
        Answer::Over(end) => tell(&Report { state: word(end), why: String::new() }),
        _ => take(places, &offer, taken, &tell),
    }
}

/// What the broker keeps at a topic.
fn kept(settings: &mqtt::Settings, topic: &str) -> Result<Option<Vec<u8>>> {
    let id = format!("mien-ask-{}", machine::id());
    let listener = Listener::connect(settings, &id, &[topic.to_string()], BROKER_WAIT)?;
    let publication = listener.next(OFFER_WAIT)?;
    Ok(publication.map(|publication| publication.payload).filter(|payload| !payload.is_empty()))
}

/// The version that runs and is good; `None` for the package's program.
fn running(places: &Places) -> Option<String> {
    let slot = places.booted()?;
    let good = Slots::load(&places.store).standing(slot) == Standing::Good;
    let [a, b] = engine::versions(&places.store);
    match slot {
        Slot::A => a,
        Slot::B => b,
    }
    .filter(|_| good)
}

fn word(end: End) -> &'static str {
    match end {
        End::Good => "good",
        End::Back => "back",
        End::Refused => "refused",
    }
}

fn take(
    places: &Places,
    offer: &Offer,
    mut taken: Taken,
    tell: &dyn Fn(&Report<'_>) -> Result<()>,
) -> Result<()> {
    tell(&Report { state: "fetching", why: String::new() })?;
    say(format_args!("fetching {}, {} bytes", offer.url, offer.bytes));
    let file = match offer::fetch(offer, &places.store) {
        Ok(file) => file,
        Err(error) => {
            tell(&Report { state: "waiting", why: format!("{error:#}") })?;
            return Err(error);
        }
    };
    taken.begin(offer);
    taken.store(&places.store)?;
    tell(&Report { state: "installing", why: String::new() })?;
    let done = install(places, &file);
    let end = match &done {
        Ok(()) => Some(End::Good),
        Err(error) if error.downcast_ref::<Left>().is_some() => Some(End::Back),
        Err(error) if error.downcast_ref::<Refused>().is_some() => Some(End::Refused),
        // Another try may help: a disk that is full, an engine that is busy.
        Err(_) => None,
    };
    taken.end = end;
    taken.store(&places.store)?;
    if end.is_some() {
        offer::forget(&places.store);
    }
    let why = done.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    // The next time it asks, it says so again.
    if let Err(error) = tell(&Report { state: end.map_or("waiting", word), why }) {
        log::warn!("{error:#}");
    }
    done
}

/// Tells the broker; comes back when it has confirmed.
fn tell(
    config: &Config,
    settings: &mqtt::Settings,
    offer: &Offer,
    place: u8,
    report: &Report<'_>,
    places: &Places,
) -> Result<()> {
    say(format_args!("{}{}{}", report.state, if report.why.is_empty() { "" } else { ": " }, report.why));
    let topic = format!("{}/update", settings.prefix(&config.device_name()));
    let text = json!({
        "type": "update",
        "state": report.state,
        "version": offer.version,
        "runs": running(places).unwrap_or_else(|| name(places.booted())),
        "place": place,
        "percent": offer.percent,
        "why": report.why,
    });
    let id = format!("mien-ask-{}", machine::id());
    let mut link = Link::open(mqtt::options(settings, &id, None)?, &settings.address(), 0)?;
    let until = Instant::now() + BROKER_WAIT;
    let mut receipt = None;
    while Instant::now() < until {
        if receipt.is_none() && link.is_up() {
            receipt = link.publish(topic.clone(), text.to_string().into(), true);
        }
        match receipt.as_mut().map(|receipt| receipt.progress()) {
            Some(Progress::Confirmed) => {
                link.disconnect(Duration::from_secs(1));
                return Ok(());
            }
            Some(Progress::GivenBack) => receipt = None,
            _ => {}
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("the broker {} was not told: {}", settings.address(), report.state)
}
