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
    let tell = |state: &str, why: &str| tell(&config, settings, &offer, place, state, why, places);
    let mut taken = Taken::load(&places.store);
    let slots = Slots::load(&places.store);
    let on_trial = places.booted().is_some_and(|slot| matches!(slots.standing(slot), Standing::Trial(_)));
    ensure!(!on_trial, "a version is on trial here: ask again when it is settled");

    let compatible = engine::compatible()?;
    let mut answer = offer::answer(&offer, &taken, &compatible, place);
    if matches!(answer, Answer::Over(_) | Answer::Waits | Answer::Take)
        && running(places).as_ref() == Some(&offer.version)
    {
        answer = Answer::Over(End::Good);
    }
    if answer == Answer::Old {
        return Err(Error::msg("a newer one was seen before").context(Refused("the offer is refused".into())));
    }
    if answer == Answer::OtherBoard {
        say(format_args!("it is not for this board, which is {compatible}"));
        return Ok(());
    }
    taken.made = offer.made;
    taken.store(&places.store)?;
    match answer {
        Answer::Waits => tell("waiting", &format!("its place is {place} of 100")),
        Answer::Over(end) => tell(end.name(), ""),
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

fn take(
    places: &Places,
    offer: &Offer,
    mut taken: Taken,
    tell: &dyn Fn(&str, &str) -> Result<()>,
) -> Result<()> {
    if taken.turn_to(offer) {
        offer::forget(&places.store);
        taken.store(&places.store)?;
    }
    tell("fetching", "")?;
    say(format_args!("fetching {}, {} bytes", offer.url, offer.bytes));
    let fetched = offer::fetch(offer, &places.store);
    // What never came whole may come another time; what did is tried so often and no more.
    if fetched.is_ok() {
        taken.tries += 1;
        taken.store(&places.store)?;
    }
    let file = match fetched.and_then(|file| offer::check(offer, &places.store).map(|()| file)) {
        Ok(file) => file,
        Err(error) => {
            tell("waiting", &format!("{error:#}"))?;
            return Err(error);
        }
    };
    tell("installing", "")?;
    let done = install(places, &file);
    taken.end = match &done {
        Ok(()) => Some(End::Good),
        Err(error) if error.downcast_ref::<Left>().is_some() => Some(End::Back),
        Err(error) if error.downcast_ref::<Refused>().is_some() => Some(End::Refused),
        // Another try may help: a disk that is full, an engine that is busy.
        Err(_) => None,
    };
    taken.store(&places.store)?;
    if taken.end.is_some() {
        offer::forget(&places.store);
    }
    let why = done.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    // The next time it asks, it says so again.
    if let Err(error) = tell(taken.end.map_or("waiting", End::name), &why) {
        log::warn!("{error:#}");
    }
    done
}

/// Tells the broker, retained, under the device's topic `update`; comes back when it has confirmed.
fn tell(
    config: &Config,
    settings: &mqtt::Settings,
    offer: &Offer,
    place: u8,
    state: &str,
    why: &str,
    places: &Places,
) -> Result<()> {
    say(format_args!("{state}{}{why}", if why.is_empty() { "" } else { ": " }));
    let topic = format!("{}/update", settings.prefix(&config.device_name()));
    let text = json!({
        "type": "update",
        "state": state,
        "version": offer.version,
        "runs": running(places).unwrap_or_else(|| name(places.booted())),
        "place": place,
        "percent": offer.percent,
        "why": why,
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
    bail!("the broker {} was not told: {state}", settings.address())
}
