//! Who may do what here.

use serde::{Deserialize, Serialize};

use super::{ConfigError, Env, raw};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Answers of models, and counting tokens.
    Infer,
    /// Loading and unloading, and giving memory back.
    Lifecycle,
    /// What there is and how busy it is: models, devices, `/watch`.
    Registry,
    /// Files of models, for another node.
    Files,
}

impl Scope {
    pub(super) const ALL: [Self; 4] = [Self::Infer, Self::Lifecycle, Self::Registry, Self::Files];

    /// Its name in neuron.toml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Lifecycle => "lifecycle",
            Self::Registry => "registry",
            Self::Files => "files",
        }
    }
}

/// A bearer token and what it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    pub secret: String,
    pub scopes: Vec<Scope>,
}

impl Token {
    /// One that may do everything with models is a gateway's: it may say for whom it asks.
    pub fn is_gateways(&self) -> bool {
        let of_a_gateway = [Scope::Infer, Scope::Lifecycle, Scope::Registry];
        of_a_gateway.iter().all(|scope| self.scopes.contains(scope))
    }
}

/// The node's token, then the others.
pub(super) fn all(raw: &raw::Neuron, file: &str, env: Env<'_>) -> Result<Vec<Token>, ConfigError> {
    let at = |key: &str, problem: String| ConfigError(format!("{file}: {key}: {problem}"));
    let mut tokens = Vec::new();
    if let Some(variable) = &raw.token_env {
        let secret = super::secret(variable, env).map_err(|e| at("neuron.token_env", e))?;
        tokens.push(Token { name: "gateway".to_owned(), secret, scopes: Scope::ALL.to_vec() });
    }
    for token in &raw.tokens {
        let key = format!("neuron.tokens.{}", token.name);
        if token.scopes.is_empty() {
            return Err(at(
                &key,
                "it has no scopes; there are infer, lifecycle, registry and files".to_owned(),
            ));
        }
        let secret = super::secret(&token.token_env, env).map_err(|e| at(&key, e))?;
        if let Some(same) = tokens.iter().find(|other| other.secret == secret || other.name == token.name) {
            return Err(at(&key, format!("it has the name or the secret of {}", same.name)));
        }
        tokens.push(Token { name: token.name.clone(), secret, scopes: token.scopes.clone() });
    }
    Ok(tokens)
}
