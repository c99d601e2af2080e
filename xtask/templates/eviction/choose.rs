//! The judgement, free of WebAssembly: `cargo test -p policy-NAME` covers it.

use alloc::{string::String, vec::Vec};

/// Facts of a resident that are read (docs/facts.md).
pub const FACTS: [&str; 2] = ["uses", "last_used_s"];

/// A model that may go.
#[derive(Debug, Clone, Copy)]
pub struct Resident<'a> {
    /// MiB freed on each device.
    pub frees_mb: &'a [u64],
    /// Requests that it served; `u32::MAX` = not known, which counts as none.
    pub uses: u32,
    /// Seconds since its last request; `u32::MAX` = not known, which counts as never used.
    pub idle_s: u32,
}

/// From `[policies.settings.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// A model with so many requests is spared.
    pub spare_from_uses: u32,
}

/// JSON Schema of the settings.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"spare_from_uses":{"type":"integer","minimum":1,"maximum":1000000,"default":1000000}}}"#;

impl Settings {
    pub const DEFAULT: Self = Self { spare_from_uses: 1_000_000 };

    /// An error is a sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut settings = Self::DEFAULT;
        policy_kit::settings::read(json, &["spare_from_uses"], &mut |_, value| {
            settings.spare_from_uses = value.integer(1..=1_000_000, "a whole number from 1 to 1000000")?;
            Ok(())
        })?;
        Ok(settings)
    }
}

/// Victims in order, the least used first, of equally used ones the longest idle. Empty where nothing
/// that may go frees enough.
pub fn plan(settings: &Settings, short_mb: &[u64], residents: &[Resident]) -> Vec<usize> {
    let known = |n: u32| if n == u32::MAX { 0 } else { n };
    let mut order: Vec<_> = residents
        .iter()
        .enumerate()
        .filter(|(_, r)| known(r.uses) < settings.spare_from_uses)
        .map(|(i, r)| (known(r.uses), u32::MAX - r.idle_s, i))
        .collect();
    policy_kit::sort(&mut order);
    let frees = |i: usize| residents.get(i).map_or(&[][..], |r| r.frees_mb);
    policy_victims::cover(order.into_iter().map(|(.., i)| i), frees, short_mb).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_goes_first() {
        let resident = |uses, idle_s| Resident { frees_mb: &[10], uses, idle_s };
        let residents = [resident(5, 1), resident(2, 1), resident(2, 9)];
        assert_eq!(plan(&Settings::DEFAULT, &[10], &residents), [2]);
        assert_eq!(plan(&Settings::DEFAULT, &[30], &residents), [2, 1, 0]);
        assert_eq!(plan(&Settings { spare_from_uses: 5 }, &[30], &residents), [] as [usize; 0]);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(Settings::parse(r#"{"spare_from_uses": 3}"#), Ok(Settings { spare_from_uses: 3 }));
        assert!(Settings::parse(r#"{"spare": 3}"#).is_err_and(|e| e.contains("spare_from_uses")));
    }
}
