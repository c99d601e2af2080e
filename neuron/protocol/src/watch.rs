use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use crate::{DeviceHealth, Health, ModelInfo, ModelLoad, prefix::PrefixHash};

/// What `GET /watch` sends, one server-sent event each. The event's name is the variant's, and its data
/// what the variant holds, as it is serialized here. The first is a snapshot; the others say what has changed since.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum WatchEvent {
    /// `snapshot`: everything as it is now. A second one on the same stream replaces all that came before.
    Snapshot(Box<Snapshot>),
    /// `model`: an entry of /models that is new or has changed; `unloaded` where it has gone.
    Model(Box<ModelInfo>),
    /// `load`: how busy a model is, an entry of /health's `models`.
    Load(Box<ModelLoad>),
    /// `device`: an entry of /health's `devices`.
    Device(DeviceHealth),
    /// `load-progress`: how far a load is; the last one says how it ended.
    Progress(LoadProgress),
    /// `prefixes`: what a model's cache has gained and lost.
    Prefixes(PrefixChanges),
    /// An event of a newer daemon.
    Unknown,
}

/// Everything that a gateway wants to know of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(default)]
    pub health: Health,
    #[serde(default)]
    pub models: Vec<ModelInfo>,
    /// What each model's cache holds, all of it in `added`.
    #[serde(default)]
    pub prefixes: Vec<PrefixChanges>,
    /// Loads under way.
    #[serde(default)]
    pub loads: Vec<LoadProgress>,
}

/// How far a load is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadProgress {
    /// The model's id, as in /models.
    pub model: String,
    pub phase: LoadPhase,
    /// Bytes that this phase has moved.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes that it moves; 0 = unknown.
    #[serde(default)]
    pub bytes_total: u64,
    /// The speed so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<u64>,
    /// An estimate by that speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
    /// With `failed`: what a load that was waited for would have been answered, status and body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<LoadFailed>,
}

/// An answer to a load that nobody waited for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadFailed {
    pub status: u16,
    /// The body, JSON in a text.
    pub body: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadPhase {
    /// Finding out what there is to load, and whether it fits.
    #[default]
    Checking,
    Downloading,
    /// For another load to end.
    Waiting,
    /// From disk into memory.
    Reading,
    Loaded,
    Failed,
    /// A phase of a newer daemon.
    #[serde(other)]
    Unknown,
}

/// A conversation's beginning that lies in a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    pub hash: PrefixHash,
    /// Tokens that a request with this beginning need not run again.
    pub tokens: u64,
}

/// Changes of what a model's cache holds. A model that is unloaded holds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixChanges {
    /// The model's id, as in /models.
    pub model: String,
    /// New, or with another count of tokens.
    #[serde(default)]
    pub added: Vec<Prefix>,
    #[serde(default)]
    pub removed: Vec<PrefixHash>,
}

impl WatchEvent {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Snapshot(_) => "snapshot",
            Self::Model(_) => "model",
            Self::Load(_) => "load",
            Self::Device(_) => "device",
            Self::Progress(_) => "load-progress",
            Self::Prefixes(_) => "prefixes",
            Self::Unknown => "unknown",
        }
    }

    /// From an event's name and data. Errors where the data of a known event is of another shape.
    pub fn parse<'de, D: Deserializer<'de>>(name: &str, data: D) -> Result<Self, D::Error> {
        Ok(match name {
            "snapshot" => Self::Snapshot(Deserialize::deserialize(data)?),
            "model" => Self::Model(Deserialize::deserialize(data)?),
            "load" => Self::Load(Deserialize::deserialize(data)?),
            "device" => Self::Device(Deserialize::deserialize(data)?),
            "load-progress" => Self::Progress(Deserialize::deserialize(data)?),
            "prefixes" => Self::Prefixes(Deserialize::deserialize(data)?),
            _ => {
                IgnoredAny::deserialize(data)?;
                Self::Unknown
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, data: &str) -> serde_json::Result<WatchEvent> {
        WatchEvent::parse(name, &mut serde_json::Deserializer::from_str(data))
    }

    #[test]
    fn events_come_back_from_what_they_are_on_the_wire() {
        let prefixes = PrefixChanges {
            model: "org/model".into(),
            added: vec![Prefix { hash: PrefixHash(10), tokens: 48 }],
            removed: vec![PrefixHash(11)],
        };
        let snapshot = Snapshot { prefixes: vec![prefixes.clone()], ..Snapshot::default() };
        let events = [
            WatchEvent::Snapshot(snapshot.into()),
            WatchEvent::Model(ModelInfo { id: "m".into(), ..ModelInfo::default() }.into()),
            WatchEvent::Load(ModelLoad { id: "m".into(), in_flight: 3, ..ModelLoad::default() }.into()),
            WatchEvent::Device(DeviceHealth { index: 1, ..DeviceHealth::default() }),
            WatchEvent::Prefixes(prefixes),
            WatchEvent::Progress(LoadProgress {
                model: "m".into(),
                phase: LoadPhase::Reading,
                bytes_done: 1,
                bytes_total: 2,
                ..LoadProgress::default()
            }),
        ];
        for event in events {
            let data = serde_json::to_string(&event).unwrap();
            assert!(!data.contains('\n'));
            assert_eq!(parse(event.name(), &data).unwrap(), event);
        }
        let golden =
            r#"{"model":"org/model","added":[{"hash":"000000000000000a","tokens":48}],"removed":[]}"#;
        let WatchEvent::Prefixes(parsed) = parse("prefixes", golden).unwrap() else { panic!() };
        assert_eq!(parsed.added[0], Prefix { hash: PrefixHash(10), tokens: 48 });
    }

    #[test]
    fn what_is_new_is_passed_over_and_what_is_wrong_is_an_error() {
        assert_eq!(parse("weather", "{}").unwrap(), WatchEvent::Unknown);
        let new = parse("load-progress", r#"{"model":"m","phase":"hashing"}"#).unwrap();
        assert!(matches!(new, WatchEvent::Progress(LoadProgress { phase: LoadPhase::Unknown, .. })));
        assert_eq!(parse("snapshot", "{\"new\":1}").unwrap(), WatchEvent::Snapshot(Box::default()));
        assert!(parse("prefixes", "{}").is_err());
        assert!(parse("model", "[").is_err());
    }
}
