//! Who may operate the gateway.

use super::keys::{Digest, digests};
use super::raw;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an admin key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything and changes nothing.
    Viewer,
    /// Also loads, unloads, drains and pins.
    Operator,
    /// Puts policies into the directory, and nothing else.
    PolicyUpload,
}

/// Operators' keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdminKeys {
    by_digest: BTreeMap<Digest, Arc<AdminKey>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AdminKey {
    pub name: String,
    pub roles: Vec<Role>,
}

impl Role {
    /// Its name in cortex.toml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::PolicyUpload => "policy-upload",
        }
    }
}

impl AdminKey {
    /// Operators see what they operate.
    pub fn may(&self, role: Role) -> bool {
        self.roles.contains(&role) || (role == Role::Viewer && self.roles.contains(&Role::Operator))
    }
}

impl AdminKeys {
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// The one whose secret has this SHA-256: comparing digests tells nothing of the secret by its timing.
    pub fn of_digest(&self, digest: &[u8; 32]) -> Option<&Arc<AdminKey>> {
        self.by_digest.get(digest)
    }

    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.by_digest.values().map(|key| key.name.as_str()).collect()
    }

    /// Of the key of that name, as digests.
    pub(super) fn secrets(&self, name: &str) -> Vec<&Digest> {
        self.by_digest.iter().filter(|(_, key)| key.name == name).map(|(digest, _)| digest).collect()
    }

    /// An error is a sentence.
    pub(super) fn new(raw: Vec<raw::AdminKey>, env: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let mut keys = Self::default();
        for raw in raw {
            let place = format!("admin_keys.{}", raw.name);
            if raw.roles.is_empty() {
                return Err(format!("{place}.roles: one of viewer, operator and policy-upload is needed"));
            }
            let digests = digests(&place, raw.key_env.as_deref(), raw.sha256.as_ref(), &env)?;
            let key = Arc::new(AdminKey { name: raw.name, roles: raw.roles });
            for digest in digests {
                if let Some(other) = keys.by_digest.insert(digest, key.clone()) {
                    return Err(format!("admin_keys: {} and {} are the same secret", other.name, key.name));
                }
            }
        }
        Ok(keys)
    }
}
