//! What a text claims of a face, a voice or words: phrases of English and Chinese to cues and values.
//!
//! A phrase is a few words that stand near each other in one sentence ("raised", "brow"); `*` ends a stem. In Chinese it is a run of
//! characters. Words before it may deny it ("without a smile"), doubt it ("perhaps"), or say that it is about somebody else. The closed
//! grammar of the synthetic world (`claims`) is made of such phrases, too. `tests/data/sentences.tsv` holds what is understood.

use super::{CUES, claims::Claim};
use std::ops::Range;

/// A claim as it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub claim: Claim,
    /// It is said not to be so.
    pub denied: bool,
    /// "Perhaps", "seems to".
    pub doubted: bool,
    /// It is about somebody else than the person in front.
    pub other: bool,
    /// Bytes of the text: from its first word to the end of its last.
    pub from: usize,
    pub to: usize,
    /// Bytes of the one word that says it: "lively" of "the voice is lively"; in Chinese all of it.
    pub word: Range<usize>,
}

/// Words of a phrase may have so many others between them.
const GAP: usize = 3;
/// Words before a phrase that a denial or a doubt reaches over.
const REACH: usize = 4;

/// Phrases, the first that fits a place wins: words, cue, value. `a|b` are choices; a word order of its own is a row of its own.
const ENGLISH: &[(&str, &str, &str)] = &[
    ("inner brow*|eyebrow* rais*|lift*|drawn|up", "brow", "oblique"),
    ("oblique brow*|eyebrow*", "brow", "oblique"),
    ("rais*|lift*|arch* brow*|eyebrow*", "brow", "raised"),
    ("brow*|eyebrow* rais*|lift*|arch*|up|high*", "brow", "raised"),
    ("furrow*|knit*|lower*|contract*|wrinkl* brow*|eyebrow*|forehead", "brow", "lowered"),
    ("brow*|eyebrow* furrow*|knit*|lower*|contract*|together|down", "brow", "lowered"),
    ("frown*|scowl*", "brow", "lowered"),
    ("wide|widen* eye*", "eyes", "wide"),
    ("eye* wide|widen*", "eyes", "wide"),
    ("narrow*|squint* eye*", "eyes", "narrowed"),
    ("eye* narrow*|squint*", "eyes", "narrowed"),
    ("squint*", "eyes", "narrowed"),
    ("wrinkl*|scrunch* nose", "nose", "wrinkled"),
    ("nose wrinkl*|scrunch*", "nose", "wrinkled"),
    ("smil* mouth|lips", "mouth", "smiling"),
    ("smil*|grin*|beam*", "mouth", "smiling"),
    ("corner* mouth|lips up|upward*|raised|lifted|turned-up", "mouth", "smiling"),
    ("corner* mouth|lips down|downward*|droop*|sag*|turned-down", "mouth", "downturned"),
    ("downturn* mouth|lips", "mouth", "downturned"),
    ("mouth|lips downturn*|droop*", "mouth", "downturned"),
    ("press*|tight*|purs* mouth|lips", "mouth", "pressed"),
    ("mouth|lips press*|tight*|purs*", "mouth", "pressed"),
    ("dropped|drop*|open* jaw", "jaw", "dropped"),
    ("jaw drop*|open*|fall*|falls", "jaw", "dropped"),
    ("mouth agape|open|opened|opens|gaping", "jaw", "dropped"),
    ("open|gaping mouth", "jaw", "dropped"),
    ("still|expressionless|neutral|blank|impassive face|expression", "face", "still"),
    ("face|expression still|expressionless|neutral|blank|impassive", "face", "still"),
    ("no face", "face", "no"),
    ("high|higher|high-pitched|raised|rising pitch|pitched|tone", "pitch", "high"),
    ("high-pitched", "pitch", "high"),
    ("pitch|tone high|higher|rises|rising|raised", "pitch", "high"),
    ("low|lower|low-pitched|deep pitch|pitched|tone", "pitch", "low"),
    ("low-pitched", "pitch", "low"),
    ("pitch|tone low|lower|drops|falls|falling|deep", "pitch", "low"),
    ("level|even|steady pitch|tone", "pitch", "level"),
    ("pitch|tone level|even|steady", "pitch", "level"),
    ("wide range", "range", "wide"),
    ("voice|tone|intonation lively|animated|varied|expressive", "range", "wide"),
    ("lively|animated|varied|expressive intonation|tone|voice|melody", "range", "wide"),
    ("narrow range", "range", "narrow"),
    ("monotone|monotonous|flat|toneless tone|voice|intonation", "range", "narrow"),
    ("voice|tone|intonation monotone|monotonous|flat|toneless", "range", "narrow"),
    ("monotone", "range", "narrow"),
    ("medium range", "range", "medium"),
    ("fast|rapid|quick|hurried rate|speech|pace|tempo|speaking", "rate", "fast"),
    ("speak*|talk*|words|speech|pace|tempo fast|faster|rapid*|quick*|hurried*", "rate", "fast"),
    ("slow|slower|measured rate|speech|pace|tempo|speaking", "rate", "slow"),
    ("speak*|talk*|words|speech|pace|tempo slow|slowly|slower", "rate", "slow"),
    ("medium rate", "rate", "medium"),
    ("rais* voice", "timbre", "pressed"),
    ("voice rais*", "timbre", "pressed"),
    ("pressed|strained|tense|harsh|shout*|loud timbre|voice|tone", "timbre", "pressed"),
    ("voice|tone|timbre pressed|strained|tense|harsh|loud", "timbre", "pressed"),
    ("shout*|yell*", "timbre", "pressed"),
    ("trembl*|shak*|quaver*|quiver*|unsteady timbre|voice", "timbre", "trembling"),
    ("voice trembl*|shak*|quaver*|quiver*|unsteady|breaks|cracks", "timbre", "trembling"),
    ("soft|gentle|quiet|breathy timbre|voice|tone", "timbre", "soft"),
    ("voice|tone soft|gentle|quiet|breathy|softly", "timbre", "soft"),
    ("whisper*|murmur*", "timbre", "soft"),
    ("speak*|talk* softly|quietly", "timbre", "soft"),
    ("clear timbre|voice", "timbre", "clear"),
    ("no|silent voice", "voice", "no"),
    ("good|positive|kind words", "words", "good"),
    ("bad|negative|harsh|unkind words", "words", "bad"),
    ("plain|neutral words", "words", "plain"),
    ("no words", "words", "no"),
];

/// Runs of characters, the longest that fits a place wins.
const CHINESE: &[(&str, &str, &str)] = &[
    ("眉头紧锁", "brow", "lowered"),
    ("眉头紧皱", "brow", "lowered"),
    ("皱着眉", "brow", "lowered"),
    ("皱眉", "brow", "lowered"),
    ("皱起眉", "brow", "lowered"),
    ("眉毛压低", "brow", "lowered"),
    ("眉头微皱", "brow", "lowered"),
    ("紧锁眉头", "brow", "lowered"),
    ("扬起眉", "brow", "raised"),
    ("眉毛上扬", "brow", "raised"),
    ("眉毛抬高", "brow", "raised"),
    ("挑眉", "brow", "raised"),
    ("眉毛扬起", "brow", "raised"),
    ("眼睛睁大", "eyes", "wide"),
    ("睁大眼", "eyes", "wide"),
    ("睁大了眼", "eyes", "wide"),
    ("瞪大眼", "eyes", "wide"),
    ("瞪大了眼", "eyes", "wide"),
    ("眯着眼", "eyes", "narrowed"),
    ("眯起眼", "eyes", "narrowed"),
    ("眼睛眯", "eyes", "narrowed"),
    ("皱鼻", "nose", "wrinkled"),
    ("鼻子皱", "nose", "wrinkled"),
    ("皱起鼻", "nose", "wrinkled"),
    ("微笑", "mouth", "smiling"),
    ("笑容", "mouth", "smiling"),
    ("面带笑", "mouth", "smiling"),
    ("露出笑", "mouth", "smiling"),
    ("嘴角上扬", "mouth", "smiling"),
    ("嘴角扬起", "mouth", "smiling"),
    ("大笑", "mouth", "smiling"),
    ("嘴角下垂", "mouth", "downturned"),
    ("嘴角下拉", "mouth", "downturned"),
    ("嘴角向下", "mouth", "downturned"),
    ("撇嘴", "mouth", "downturned"),
    ("嘴唇紧闭", "mouth", "pressed"),
    ("紧闭双唇", "mouth", "pressed"),
    ("抿嘴", "mouth", "pressed"),
    ("嘴唇紧抿", "mouth", "pressed"),
    ("抿着嘴", "mouth", "pressed"),
    ("张大嘴", "jaw", "dropped"),
    ("张大了嘴", "jaw", "dropped"),
    ("嘴巴张开", "jaw", "dropped"),
    ("张着嘴", "jaw", "dropped"),
    ("嘴巴大张", "jaw", "dropped"),
    ("面无表情", "face", "still"),
    ("表情平静", "face", "still"),
    ("神情平静", "face", "still"),
    ("音调升高", "pitch", "high"),
    ("音调较高", "pitch", "high"),
    ("音调高", "pitch", "high"),
    ("语调升高", "pitch", "high"),
    ("声音尖", "pitch", "high"),
    ("语调上扬", "pitch", "high"),
    ("音调低", "pitch", "low"),
    ("音调较低", "pitch", "low"),
    ("声音低沉", "pitch", "low"),
    ("语调低沉", "pitch", "low"),
    ("音调降低", "pitch", "low"),
    ("音调平稳", "pitch", "level"),
    ("语调平稳", "pitch", "level"),
    ("语调起伏", "range", "wide"),
    ("抑扬顿挫", "range", "wide"),
    ("语调单调", "range", "narrow"),
    ("声音单调", "range", "narrow"),
    ("语调平淡", "range", "narrow"),
    ("语速快", "rate", "fast"),
    ("语速较快", "rate", "fast"),
    ("语速加快", "rate", "fast"),
    ("语速急促", "rate", "fast"),
    ("说话很快", "rate", "fast"),
    ("语速慢", "rate", "slow"),
    ("语速较慢", "rate", "slow"),
    ("语速缓慢", "rate", "slow"),
    ("语速放慢", "rate", "slow"),
    ("说话很慢", "rate", "slow"),
    ("提高音量", "timbre", "pressed"),
    ("提高了音量", "timbre", "pressed"),
    ("提高嗓门", "timbre", "pressed"),
    ("大喊", "timbre", "pressed"),
    ("大声", "timbre", "pressed"),
    ("声音洪亮", "timbre", "pressed"),
    ("声音颤抖", "timbre", "trembling"),
    ("颤抖的声音", "timbre", "trembling"),
    ("声音发抖", "timbre", "trembling"),
    ("声音哽咽", "timbre", "trembling"),
    ("声音轻柔", "timbre", "soft"),
    ("声音柔和", "timbre", "soft"),
    ("低声", "timbre", "soft"),
    ("轻声", "timbre", "soft"),
    ("语气柔和", "timbre", "soft"),
];

const DENIALS: &[&str] = &[
    "not", "no", "never", "without", "neither", "nor", "hardly", "isn't", "doesn't", "aren't", "don't",
    "didn't", "wasn't", "lacks", "absence", "cannot", "can't",
];
const DOUBTS: &[&str] = &[
    "perhaps", "maybe", "might", "may", "possibly", "seems", "seem", "appears", "could", "probably",
    "likely", "almost",
];
const OTHERS: &[&str] = &[
    "other",
    "others",
    "interviewer",
    "listener",
    "behind",
    "colleague",
    "friend",
    "partner",
    "someone",
    "everyone",
    "audience",
];
const DENIALS_ZH: &[&str] = &["没有", "并未", "不再", "不是", "毫无", "并不", "未", "没", "不"];
const DOUBTS_ZH: &[&str] = &["似乎", "可能", "好像", "也许", "仿佛", "或许", "看起来"];
const OTHERS_ZH: &[&str] = &["对方", "旁边", "别人", "其他人", "身后", "另一个人", "另一位"];

/// The distinct claims of a text, in its order. What is understood twice at one place counts once.
pub fn read(text: &str) -> Vec<Said> {
    let mut found: Vec<Said> = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let (from, to) = sentence(text, start);
        english(text, from, to, &mut found);
        chinese(text, from, to, &mut found);
        start = to.max(start + 1);
        while !text.is_char_boundary(start) {
            start += 1;
        }
    }
    found.sort_by_key(|said| said.from);
    let mut seen: Vec<(Claim, bool, bool)> = Vec::new();
    found.retain(|said| {
        let key = (said.claim, said.denied, said.other);
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    found
}

/// Words of phrases that name what a claim is about, and not what it says of it.
const SUBJECTS: &str = "inner|brow*|eyebrow*|forehead|eye*|nose|mouth|lips|corner*|jaw|face|expression|pitch|pitched|range|rate|tone|voice|timbre|intonation|melody|words|speech|pace|tempo";

/// The sentence about a byte: from after the last stop to its own.
pub fn sentence(text: &str, at: usize) -> (usize, usize) {
    let stop = |c: char| matches!(c, '.' | '!' | '?' | ';' | '\n' | '。' | '！' | '？' | '；');
    let from = text[..at].char_indices().rev().find(|&(_, c)| stop(c)).map_or(0, |(i, c)| i + c.len_utf8());
    let to =
        text[at..].char_indices().find(|&(_, c)| stop(c)).map_or(text.len(), |(i, c)| at + i + c.len_utf8());
    (from, to)
}

/// A word with its place; a comma ends what a denial reaches over.
struct Word<'a> {
    text: &'a str,
    from: usize,
    clause: usize,
}

fn words(text: &str, from: usize, to: usize) -> Vec<Word<'_>> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '\'' || c == '-';
    let mut words = Vec::new();
    let mut clause = 0;
    let mut at = from;
    while at < to {
        let rest = &text[at..to];
        let Some(first) = rest.chars().next() else { break };
        if !inside(first) {
            clause += usize::from(matches!(first, ',' | ':' | '，' | '、'));
            at += first.len_utf8();
            continue;
        }
        let length = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
        words.push(Word { text: &rest[..length], from: at, clause });
        at += length;
    }
    words
}

fn fits(word: &str, choices: &str) -> bool {
    choices.split('|').any(|choice| match choice.strip_suffix('*') {
        Some(stem) => {
            word.len() >= stem.len()
                && word.is_char_boundary(stem.len())
                && word[..stem.len()].eq_ignore_ascii_case(stem)
        }
        None => word.eq_ignore_ascii_case(choice),
    })
}

fn english(text: &str, from: usize, to: usize, found: &mut Vec<Said>) {
    let words = words(text, from, to);
    let mut taken = vec![false; words.len()];
    let is = |word: &Word<'_>, list: &[&str]| list.iter().any(|w| word.text.eq_ignore_ascii_case(w));
    let other = words.iter().any(|word| is(word, OTHERS));
    for (phrase, cue, value) in ENGLISH {
        let parts: Vec<&str> = phrase.split(' ').collect();
        for first in 0..words.len() {
            let Some(places) = matched(&words, &taken, first, &parts) else { continue };
            let last = *places.last().expect("a phrase has a word");
            let reach = first.saturating_sub(REACH)..first;
            let near = |list: &[&str]| {
                reach.clone().any(|w| is(&words[w], list) && words[w].clause == words[first].clause)
                    || (first..last).any(|w| is(&words[w], list) && !places.contains(&w))
            };
            let claim = claim(cue, value);
            let denied = near(DENIALS);
            places.iter().for_each(|&place| taken[place] = true);
            let bytes = |place: usize| words[place].from..words[place].from + words[place].text.len();
            let telling = places.iter().copied().find(|&place| !fits(words[place].text, SUBJECTS));
            found.push(Said {
                claim,
                denied,
                doubted: near(DOUBTS),
                other,
                from: words[first].from,
                to: bytes(last).end,
                word: bytes(telling.unwrap_or(first)),
            });
        }
    }
}

/// Where the words of a phrase stand, the first at `first`, each within `GAP` of the one before and in its clause.
fn matched(words: &[Word<'_>], taken: &[bool], first: usize, parts: &[&str]) -> Option<Vec<usize>> {
    let mut places = Vec::with_capacity(parts.len());
    let mut at = first;
    for (i, part) in parts.iter().enumerate() {
        // "No" stands right before what is not there.
        let gap = if parts[0] == "no" { 0 } else { GAP };
        let most = if i == 0 { first } else { at + gap };
        let place = (at..words.len().min(most + 1))
            .find(|&w| !taken[w] && words[w].clause == words[first].clause && fits(words[w].text, part))?;
        places.push(place);
        at = place + 1;
    }
    Some(places)
}

fn chinese(text: &str, from: usize, to: usize, found: &mut Vec<Said>) {
    let sentence = &text[from..to];
    if sentence.is_ascii() {
        return;
    }
    let other = OTHERS_ZH.iter().any(|word| sentence.contains(word));
    let mut at = 0;
    while let Some(next) = sentence[at..].chars().next() {
        let rest = &sentence[at..];
        let best = CHINESE
            .iter()
            .filter(|(phrase, ..)| rest.starts_with(phrase))
            .max_by_key(|(phrase, ..)| phrase.len());
        let Some((phrase, cue, value)) = best else {
            at += next.len_utf8();
            continue;
        };
        let clause = sentence[..at].rfind(['，', '、', ',']).map_or(0, |i| i + 1);
        let clause = (clause..=at).find(|&i| sentence.is_char_boundary(i)).unwrap_or(at);
        let before = &sentence[clause..at];
        let has = |list: &[&str]| list.iter().any(|word| before.contains(word));
        let (start, end) = (from + at, from + at + phrase.len());
        found.push(Said {
            claim: claim(cue, value),
            denied: has(DENIALS_ZH),
            doubted: has(DOUBTS_ZH),
            other,
            from: start,
            to: end,
            word: start..end,
        });
        at += phrase.len();
    }
}

/// The names of the table of cues.
fn claim(cue: &str, value: &str) -> Claim {
    let (cue, _, values) =
        CUES.iter().find(|(name, ..)| *name == cue).expect("the lexicon names cues of the table");
    (*cue, *values.iter().find(|known| **known == value).expect("and their values"))
}
