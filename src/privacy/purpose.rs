//! What a site may use emotion events for: a closed list of purposes, each with its names in other languages and what it obliges to.
//!
//! A purpose that is not on the list is refused, in whatever words: inferring emotions at work and in education is prohibited in the
//! EU but for medical or safety reasons (AI Act, Regulation (EU) 2024/1689, Art. 5(1)(f)), and this software is not for watching
//! drivers, for identifying people, or for children without their guardians' consent.
//!
//! Names are compared in lower case without accents; blanks, `_` and `-` are the same. The canonical name goes to every receiver.

use anyhow::{Result, bail, ensure};

/// One purpose of the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Canonical name: at most 20 of a-z and `-`, as a hello carries it.
    pub name: &'static str,
    /// English, German, French, Spanish, Italian, Portuguese, Dutch, Polish, Chinese; as [`folded`].
    names: &'static [&'static str],
    /// The law allows it for a medical or safety reason alone, which the site declares.
    pub needs_reason: bool,
    /// What it obliges to beyond [`EVERYWHERE`].
    obliges: &'static [&'static str],
}

/// What every purpose obliges to in the EU. This is not legal advice.
const EVERYWHERE: [&str; 2] = [
    "tell exposed people before or when they are first exposed (AI Act, Art. 50(3))",
    "high-risk duties for emotion recognition from 2 December 2027 (AI Act, Annex III, 1(c))",
];

const CONSENT: &str = "get the consent of those who take part (GDPR, Art. 9(2)(a))";
const GUARDIANS: &str = "keep children out, or get their guardians' consent";

pub const PURPOSES: [Purpose; 12] = [
    Purpose {
        name: "research",
        names: &[
            "forschung",
            "recherche",
            "investigacion",
            "ricerca",
            "pesquisa",
            "onderzoek",
            "badania",
            "研究",
        ],
        needs_reason: false,
        obliges: &[CONSENT],
    },
    Purpose {
        name: "demonstration",
        names: &[
            "demo",
            "vorfuehrung",
            "demonstration",
            "demostracion",
            "dimostrazione",
            "demonstracao",
            "demonstratie",
            "demonstracja",
            "演示",
        ],
        needs_reason: false,
        obliges: &[],
    },
    Purpose {
        name: "museum-guide",
        names: &[
            "museumsfuehrer",
            "guide-de-musee",
            "guia-de-museo",
            "guida-museale",
            "guia-de-museu",
            "museumgids",
            "przewodnik-muzealny",
            "博物馆导览",
        ],
        needs_reason: false,
        obliges: &[GUARDIANS],
    },
    Purpose {
        name: "information-kiosk",
        names: &[
            "kiosk",
            "infokiosk",
            "borne-d-information",
            "quiosco-informativo",
            "chiosco-informativo",
            "quiosque-informativo",
            "informatiezuil",
            "infokiosk",
            "信息亭",
        ],
        needs_reason: false,
        obliges: &[GUARDIANS],
    },
    Purpose {
        name: "companion-robot",
        names: &[
            "begleitroboter",
            "robot-compagnon",
            "robot-de-compania",
            "robot-da-compagnia",
            "robo-de-companhia",
            "gezelschapsrobot",
            "robot-towarzyszacy",
            "陪伴机器人",
        ],
        needs_reason: false,
        obliges: &[CONSENT, GUARDIANS],
    },
    Purpose {
        name: "smart-home",
        names: &[
            "home-assistant",
            "hausautomation",
            "domotique",
            "domotica",
            "casa-inteligente",
            "inteligentny-dom",
            "智能家居",
        ],
        needs_reason: false,
        obliges: &[CONSENT, GUARDIANS],
    },
    Purpose {
        name: "passenger-comfort",
        names: &[
            "fahrgastkomfort",
            "confort-des-passagers",
            "confort-de-pasajeros",
            "comfort-dei-passeggeri",
            "conforto-dos-passageiros",
            "passagierscomfort",
            "komfort-pasazerow",
            "乘客舒适",
        ],
        needs_reason: false,
        obliges: &["score passengers alone: watching the driver is not allowed here", GUARDIANS],
    },
    Purpose {
        name: "audience-response",
        names: &[
            "publikumsreaktion",
            "reaction-du-public",
            "reaccion-del-publico",
            "reazione-del-pubblico",
            "reacao-do-publico",
            "publieksreactie",
            "reakcja-publicznosci",
            "观众反应",
        ],
        needs_reason: false,
        obliges: &[GUARDIANS],
    },
    Purpose { name: "art", names: &["kunst", "arte", "sztuka", "艺术"], needs_reason: false, obliges: &[] },
    Purpose {
        name: "game",
        names: &["spiel", "jeu", "juego", "gioco", "jogo", "spel", "gra", "游戏"],
        needs_reason: false,
        obliges: &[CONSENT, GUARDIANS],
    },
    Purpose {
        name: "medical",
        names: &["medizin", "medizinisch", "medico", "medisch", "medyczny", "医疗"],
        needs_reason: true,
        obliges: &["have the medical reason documented; it is not a medical device by itself"],
    },
    Purpose {
        name: "safety",
        names: &[
            "sicherheit",
            "securite",
            "seguridad",
            "sicurezza",
            "seguranca",
            "veiligheid",
            "bezpieczenstwo",
            "安全",
        ],
        needs_reason: true,
        obliges: &["have the safety reason documented", "do not act on a person on the strength of an event"],
    },
];

impl Purpose {
    /// The purpose of that name in any of its languages; `medical_safety` is the site's declaration of such a reason.
    pub fn find(text: &str, medical_safety: bool) -> Result<&'static Purpose> {
        ensure!(
            !text.trim().is_empty(),
            "privacy.purpose is not set: name what emotion events are used for here, one of {}",
            list()
        );
        let wanted = folded(text);
        let found =
            PURPOSES.iter().find(|purpose| purpose.name == wanted || purpose.names.contains(&&*wanted));
        let Some(purpose) = found else {
            bail!(
                "privacy.purpose = {text:?} is refused: it is none of {}. Inferring emotions at work and in education is \
                 prohibited in the EU (AI Act, Art. 5(1)(f)), and this is not for watching drivers, identifying people, or \
                 children; put your own words into privacy.purpose_note",
                list()
            );
        };
        ensure!(
            !purpose.needs_reason || medical_safety,
            "privacy.purpose = {text:?} is allowed for a medical or safety reason alone (AI Act, Art. 5(1)(f)): where it stands, \
             declare it with privacy.medical_safety = true"
        );
        ensure!(
            purpose.needs_reason || !medical_safety,
            "privacy.medical_safety = true goes with the purposes `medical` and `safety`, not with {text:?}"
        );
        Ok(purpose)
    }

    /// Those who take part must agree first.
    pub fn asks_consent(&self) -> bool {
        self.obliges.contains(&CONSENT)
    }

    /// What the site has to see to.
    pub fn obligations(&self) -> impl Iterator<Item = &'static str> {
        EVERYWHERE.into_iter().chain(self.obliges.iter().copied())
    }
}

fn list() -> String {
    PURPOSES.map(|purpose| purpose.name).join(", ")
}

/// Lower case, no accents, one `-` for blanks and underscores.
fn folded(text: &str) -> String {
    let mut folded = String::new();
    for c in text.trim().chars().flat_map(char::to_lowercase) {
        match c {
            'ä' => folded.push_str("ae"),
            'ö' => folded.push_str("oe"),
            'ü' => folded.push_str("ue"),
            'ß' => folded.push_str("ss"),
            'à' | 'á' | 'â' | 'ã' | 'ą' => folded.push('a'),
            'ç' | 'ć' => folded.push('c'),
            'è' | 'é' | 'ê' | 'ë' | 'ę' => folded.push('e'),
            'ì' | 'í' | 'î' | 'ï' => folded.push('i'),
            'ł' => folded.push('l'),
            'ñ' | 'ń' => folded.push('n'),
            'ò' | 'ó' | 'ô' | 'õ' => folded.push('o'),
            'ś' => folded.push('s'),
            'ù' | 'ú' | 'û' => folded.push('u'),
            'ź' | 'ż' => folded.push('z'),
            ' ' | '_' | '-' | '\'' | '’' if folded.ends_with('-') => {}
            ' ' | '_' | '-' | '\'' | '’' => folded.push('-'),
            other => folded.push(other),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_excluded_is_refused_in_any_words() {
        for purpose in [
            "workplace",
            "work",
            "employee-monitoring",
            "office",
            "staff-mood",
            "hiring",
            "call-center",
            "callcenter",
            "arbeitsplatz",
            "Büro",
            "bureau",
            "trabajo",
            "lavoro",
            "praca",
            "工作",
            "school",
            "Schule",
            "école",
            "escuela",
            "teacher",
            "university",
            "exam",
            "szkoła",
            "driver-monitoring",
            "driver monitoring",
            "fahrerüberwachung",
            "kids",
            "kinder",
            "children",
            "identification",
            "surveillance",
            "police",
            "x",
            "Spaß & Spiel",
            "research2",
        ] {
            let error = Purpose::find(purpose, false).unwrap_err().to_string();
            assert!(
                error.contains("privacy.purpose") && error.contains("museum-guide"),
                "{purpose}: {error}"
            );
            assert!(Purpose::find(purpose, true).is_err(), "{purpose} with a declaration");
        }
    }

    #[test]
    fn other_languages_and_spellings_name_the_same_purpose() {
        for (text, name) in [
            ("research", "research"),
            ("  Research ", "research"),
            ("Forschung", "research"),
            ("investigación", "research"),
            ("研究", "research"),
            ("Museumsführer", "museum-guide"),
            ("guide de musée", "museum-guide"),
            ("museum_guide", "museum-guide"),
            ("kiosk", "information-kiosk"),
            ("borne d'information", "information-kiosk"),
            ("home-assistant", "smart-home"),
            ("vorführung", "demonstration"),
            ("Komfort pasażerów", "passenger-comfort"),
        ] {
            assert_eq!(Purpose::find(text, false).unwrap().name, name, "{text}");
        }
    }

    #[test]
    fn a_medical_or_safety_reason_is_declared_and_nothing_else_is() {
        for purpose in ["medical", "Sicherheit"] {
            assert!(Purpose::find(purpose, false).unwrap_err().to_string().contains("medical_safety = true"));
            assert!(Purpose::find(purpose, true).is_ok());
        }
        assert!(Purpose::find("research", true).is_err());
    }

    #[test]
    fn the_list_is_in_order() {
        for purpose in &PURPOSES {
            assert!(
                purpose.name.len() <= 20 && purpose.name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
            );
            assert!(purpose.names.iter().all(|name| folded(name) == *name), "{:?}", purpose.names);
            assert!(purpose.obligations().count() >= 2);
            for other in &PURPOSES {
                let shared =
                    purpose.names.iter().find(|name| other.name == **name || other.names.contains(name));
                assert!(
                    shared.is_none() || other.name == purpose.name,
                    "{shared:?}: {} and {}",
                    purpose.name,
                    other.name
                );
            }
        }
    }
}
