//! What a text claims, and how its claims stand against what was measured.

use mien::cues::{
    Channel,
    ground::{self, Grounds, Verdict},
    ledger::{self, Cues, Measured},
    lexicon::{self, Said},
};
use mien::model::{Reason, Stop};
use std::collections::BTreeSet;

fn written(said: &Said) -> String {
    let mark = |there, mark| if there { mark } else { "" };
    let (cue, value) = said.claim;
    let marks = [mark(said.denied, "!"), mark(said.doubted, "?"), mark(said.other, "*")].concat();
    format!("{marks}{cue}={value}")
}

/// The sentences were written before the lexicon was tried on them; what it misses stays in the file.
#[test]
fn claims_of_two_hundred_sentences_are_understood() {
    let (mut hits, mut found, mut wanted, mut sentences) = (0, 0, 0, 0);
    for line in include_str!("data/sentences.tsv").lines() {
        let (text, claims) = line.split_once('\t').unwrap_or((line, ""));
        let expected: BTreeSet<String> = claims.split_whitespace().map(String::from).collect();
        let understood: BTreeSet<String> = lexicon::read(text).iter().map(written).collect();
        if understood != expected {
            eprintln!("{text}\n  expected {expected:?}\n  understood {understood:?}");
        }
        hits += understood.intersection(&expected).count();
        (found, wanted, sentences) = (found + understood.len(), wanted + expected.len(), sentences + 1);
    }
    let (precision, recall) = (hits as f64 / found as f64, hits as f64 / wanted as f64);
    println!("{sentences} sentences, {wanted} claims: precision {precision:.3}, recall {recall:.3}");
    assert!(
        sentences >= 190 && precision >= 0.95 && recall >= 0.95,
        "precision {precision}, recall {recall}"
    );
}

fn measured(
    cue: &'static str,
    value: &'static str,
    known: &'static [&'static str],
    observable: bool,
) -> Measured {
    let channel =
        if matches!(cue, "pitch" | "range" | "timbre" | "voice") { Channel::Voice } else { Channel::Face };
    Measured { cue, channel, value, known: ledger::known(known), observable }
}

fn cues() -> Cues {
    [
        measured("pitch", "high", &["high", "low", "level"], true),
        measured("timbre", "", &["soft", "clear"], true),
        measured("range", "", &["wide", "narrow", "medium"], false),
        measured("mouth", "smiling", &["smiling", "downturned"], true),
        measured("brow", "", &["lowered"], true),
        measured("face", "", &["no"], true),
    ]
    .into_iter()
    .collect()
}

fn verdicts(text: &str) -> Vec<Verdict> {
    ground::check(text, &cues()).0.into_iter().map(|judged| judged.verdict).collect()
}

#[test]
fn what_a_claim_says_of_its_subject_is_one_word() {
    for (text, word) in [
        ("Her voice is lively.", "lively"),
        ("I hear narrow range.", "narrow"),
        ("He raised his voice.", "raised"),
        ("The corners of her mouth turn down.", "down"),
        ("She smiles.", "smiles"),
        ("她的音调低。", "音调低"),
    ] {
        let said = lexicon::read(text);
        assert_eq!(said.iter().map(|said| &text[said.word.clone()]).collect::<Vec<_>>(), [word], "{text}");
    }
}

#[test]
fn every_claim_has_its_verdict() {
    use Verdict::{Contradicted, NotCheckable, NotObservable, True};
    for (text, expected) in [
        ("Her pitch is high.", True),
        ("Her pitch is low.", Contradicted),
        ("Her pitch is not low.", True),
        ("Her pitch is not high.", Contradicted),
        ("Her voice is monotone.", NotObservable),
        ("His voice is soft.", Contradicted),
        ("He shouts.", NotCheckable),
        ("She smiles.", True),
        ("The corners of her mouth turn down.", Contradicted),
        ("Her lips are pressed together.", Contradicted),
        ("He frowns.", Contradicted),
        ("He raised his eyebrows.", NotCheckable),
        ("He speaks slowly.", NotCheckable),
        ("His face is expressionless.", Contradicted),
        ("I see no face.", Contradicted),
        ("The other person frowns.", NotCheckable),
        ("He uses kind words.", NotCheckable),
    ] {
        assert_eq!(verdicts(text), [expected], "{text}");
    }
}

#[test]
fn contradicted_claims_are_taken_out_of_lists_and_of_running_text() {
    let without = |text: &str| ground::without_contradicted(text, &ground::check(text, &cues()));
    assert_eq!(
        without("I see lowered brow, smiling mouth. I hear low pitch. Together happy"),
        "I see smiling mouth. Together happy"
    );
    assert_eq!(without("I see smiling mouth, lowered brow. Fine."), "I see smiling mouth. Fine.");
    // Neighbours go together, with the commas between them.
    assert_eq!(without("I see lowered brow, no face, smiling mouth. Fine."), "I see smiling mouth. Fine.");
    assert_eq!(without("I see lowered brow, no face. Together happy"), "Together happy");
    assert_eq!(without("I see smiling mouth, lowered brow, no face. Fine."), "I see smiling mouth. Fine.");
    assert_eq!(without("He frowns at the door. She smiles."), "She smiles.");
    assert_eq!(without("她的音调低。她微笑。"), "她微笑。");
    assert_eq!(without("Nothing is claimed here."), "Nothing is claimed here.");
}

/// A reason whose tokens end where a `|` stands, each of the probability in its turn.
fn weighed(marked: &str, probabilities: &[f32]) -> Reason {
    let text = marked.replace('|', "");
    let ends = marked.match_indices('|').enumerate().map(|(before, (at, _))| at - before);
    let weights: Vec<_> = ends.zip(probabilities.iter().map(|p| p.ln())).collect();
    assert_eq!(weights.len(), probabilities.len());
    let think =
        text.split_once("<think>").map(|(_, rest)| rest.split_once("</think>").unwrap().0.trim().into());
    Reason {
        text,
        think,
        answer: Some("happy".into()),
        tokens: weights.len(),
        stop: Stop::EndOfText,
        weights,
    }
}

#[test]
fn claims_whose_words_are_improbable_are_left_out() {
    let marked = "<think>| I see| wide| eyes|,| smi|ling| mouth|. I hear| high| pitch|.</think>|<answer>happy</answer>|";
    let said = weighed(marked, &[1.0, 1.0, 0.9, 0.9, 1.0, 0.8, 0.9, 1.0, 1.0, 0.6, 1.0, 1.0, 1.0]);
    let place = said.text.find("smiling mouth").unwrap();
    assert!((said.probability(place..place + "smiling mouth".len()) - 0.72).abs() < 1e-6);
    let think = |least| ground::without_unsure(said.clone(), least).think.unwrap();
    assert_eq!(think(0.0), "I see wide eyes, smiling mouth. I hear high pitch.");
    assert_eq!(think(0.7), "I see wide eyes, smiling mouth.");
    assert_eq!(think(0.75), "I see wide eyes.");
    assert_eq!(think(0.9), "");
    assert_eq!(
        ground::without_unsure(said.clone(), 0.7).text,
        "<think> I see wide eyes, smiling mouth.</think><answer>happy</answer>"
    );
    // Nobody weighed it; it ended in the middle.
    let plain = Reason { weights: Vec::new(), ..said.clone() };
    assert_eq!(ground::without_unsure(plain.clone(), 0.9).text, plain.text);
    let cut = weighed("I see| wide| eyes|, smiling| mouth|", &[1.0, 0.5, 1.0, 0.9, 1.0]);
    assert_eq!(ground::without_unsure(cut, 0.7).text, "I see smiling mouth");
}

#[test]
fn of_two_reasons_the_one_with_fewer_contradictions_is_better_then_the_one_with_more_truth() {
    let of = |text: &str| ground::check(text, &cues());
    let (bad, good, best) = (of("He frowns."), of("He waves."), of("She smiles."));
    assert!(good.better_than(&bad) && best.better_than(&good) && best.better_than(&bad));
    assert!(!bad.better_than(&good) && !good.better_than(&good.clone()));
    assert_eq!(Grounds::default().count(Verdict::True), 0);
}

/// Whatever the text, places are whole characters in order.
#[test]
fn hostile_text_is_read_without_a_panic() {
    for text in [
        "",
        ".",
        "I see",
        "…。、",
        "不",
        "没有微笑没有微笑",
        "smil\u{0}e",
        "I see ,,,,.",
        "皱",
        "𝔰𝔪𝔦𝔩𝔢 smile",
        "no no no smile.",
    ] {
        let long = text.repeat(50);
        for text in [text, &long] {
            for said in lexicon::read(text) {
                assert!(text.get(said.from..said.to).is_some_and(|part| !part.is_empty()), "{text}");
            }
            ground::without_contradicted(text, &ground::check(text, &cues()));
        }
    }
}
