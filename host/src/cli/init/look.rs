//! Who is at the addresses that were given.

use crate::upstream::{Access, Peer, Upstream};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method};
use neuron_protocol::{Discovery, ModelInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::time::Duration;

/// neuron's own port.
const PORT: u16 = 13131;
/// A neuron that is there answers at once.
const LIMIT: Duration = Duration::from_secs(3);
/// Addresses that are asked at a time, and of one network at all.
const AT_ONCE: usize = 64;
const MOST: u32 = 4096;
/// Bytes of an answer.
const ANSWER: usize = 4 << 20;

/// An address, and who was there.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Found {
    /// What it is called in cortex.toml.
    pub(super) name: String,
    pub(super) endpoint: String,
    pub(super) devices: Vec<String>,
    pub(super) models: Vec<ModelInfo>,
    /// Why nothing is known of it.
    pub(super) error: Option<String>,
    /// It is there, and wants a token.
    #[serde(skip)]
    pub(super) is_locked: bool,
}

impl Found {
    /// For a person.
    pub(super) fn said(&self) -> String {
        match &self.error {
            Some(error) => format!("{error}; it is in the file all the same"),
            None => format!("{}, {}, {} models", self.name, self.devices.join(", "), self.models.len()),
        }
    }
}

/// What is given by its own address is kept though nobody answers; of a network, those who do.
pub(super) fn all(wanted: &[String], token: Option<&str>) -> anyhow::Result<Vec<Found>> {
    let mut endpoints = Vec::new();
    for address in wanted {
        match network(address)? {
            Some(hosts) => endpoints.extend(hosts.map(|ip| (format!("http://{ip}:{PORT}"), false))),
            None => endpoints.push((endpoint(address)?, true)),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = futures_util::stream::iter(endpoints)
        .map(|(endpoint, named)| async move { (look(endpoint, token).await, named) });
    let all: Vec<(Found, bool)> = runtime.block_on(looked.buffered(AT_ONCE).collect());
    let mut found: Vec<Found> = all
        .into_iter()
        .filter(|(found, named)| *named || found.error.is_none() || found.is_locked)
        .map(|(found, _)| found)
        .collect();
    if found.is_empty() {
        bail!(
            "no neuron answers at {}: is one running there, and does it listen on more than loopback?",
            wanted.join(", ")
        );
    }
    for at in 0..found.len() {
        let (before, rest) = found.split_at_mut(at);
        if before.iter().any(|other| other.name == rest[0].name) {
            rest[0].name = format!("{}-{at}", rest[0].name);
        }
    }
    Ok(found)
}

/// The hosts of `10.0.0.0/24`; `None` where it is no network.
fn network(address: &str) -> anyhow::Result<Option<impl Iterator<Item = Ipv4Addr> + use<>>> {
    let Some((ip, bits)) = address.split_once('/').filter(|(ip, _)| !ip.contains(':')) else {
        return Ok(None);
    };
    let ip: Ipv4Addr = ip.parse().with_context(|| format!("{address:?} is no network"))?;
    let bits: u32 = bits.parse().with_context(|| format!("{address:?} is no network"))?;
    if !(1..=32).contains(&bits) || 1 << (32 - bits) > MOST {
        bail!("{address} is too large to look through: at most {MOST} addresses, /20");
    }
    let size = 1u32 << (32 - bits);
    let first = u32::from(ip) & !(size - 1);
    // Neither the network's own address nor the one for everybody.
    let hosts = if size > 2 { first + 1..first + size - 1 } else { first..first + size };
    Ok(Some(hosts.map(Ipv4Addr::from)))
}

fn endpoint(address: &str) -> anyhow::Result<String> {
    let address = address.trim_end_matches('/');
    let with_scheme = match address.contains("://") || address.starts_with("unix:") {
        true => return Ok(address.to_owned()),
        false => format!("http://{address}"),
    };
    let uri: http::Uri = with_scheme.parse().with_context(|| format!("{address:?} is no address"))?;
    let host = uri.host().with_context(|| format!("{address:?} has no host"))?;
    Ok(format!("http://{host}:{}", uri.port_u16().unwrap_or(PORT)))
}

async fn look(endpoint: String, token: Option<&str>) -> Found {
    let mut found = Found {
        name: String::new(),
        endpoint,
        devices: Vec::new(),
        models: Vec::new(),
        error: None,
        is_locked: false,
    };
    let asked = tokio::time::timeout(LIMIT, ask(&found.endpoint, token)).await;
    match asked.unwrap_or_else(|_| Err(anyhow::anyhow!("it does not answer within {} s", LIMIT.as_secs()))) {
        Ok((discovery, models)) => {
            found.name = name(&discovery.hostname);
            found.devices = discovery
                .devices
                .iter()
                .map(|d| format!("{} with {} MiB", d.name, d.vram_total_mb))
                .collect();
            found.models = models;
        }
        Err(error) => {
            found.is_locked = error.is::<Locked>();
            found.error = Some(format!("{error:#}"));
        }
    }
    if found.name.is_empty() {
        let host = found.endpoint.split("://").last().unwrap_or_default();
        found.name = name(host.rsplit_once(':').map_or(host, |(host, _)| host));
    }
    found
}

async fn ask(endpoint: &str, token: Option<&str>) -> anyhow::Result<(Discovery, Vec<ModelInfo>)> {
    let peer = Peer::open(&Access {
        endpoint: endpoint.to_owned(),
        token: token.map(str::to_owned),
        ..Access::default()
    })?;
    Ok((get(&peer, "/discovery").await?, get(&peer, "/models").await?))
}

async fn get<T: DeserializeOwned>(peer: &Peer, path: &str) -> anyhow::Result<T> {
    let answer = Upstream.send(peer, Method::GET, path, &HeaderMap::new(), Bytes::new()).await?;
    let status = answer.status();
    let body = answer.into_body().whole(ANSWER).await?;
    match status.as_u16() {
        200 => serde_json::from_slice(&body)
            .with_context(|| format!("what answers at {} is no neuron", peer.endpoint)),
        401 | 403 => Err(Locked.into()),
        _ => bail!("what answers at {} is no neuron: {path} is {status}", peer.endpoint),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it wants a token: name the variable that holds it with --token-env")]
struct Locked;

/// What may stand as a name in cortex.toml.
fn name(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    host.chars().map(plain).take(48).collect::<String>().trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_give_them() {
        let check = |said: &str, want: &str| assert_eq!(endpoint(said).unwrap(), want, "{said}");
        check("gpu1", "http://gpu1:13131");
        check("10.0.0.7:9000", "http://10.0.0.7:9000");
        check("https://gpu1.example/", "https://gpu1.example");
        check("unix:/run/neuron.sock", "unix:/run/neuron.sock");
        check("[::1]:5", "http://[::1]:5");
        assert!(endpoint("a b").is_err());
    }

    #[test]
    fn networks() {
        let hosts = |said: &str| {
            network(said).unwrap().map(|hosts| hosts.map(|ip| ip.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(hosts("10.0.0.5/30").unwrap(), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(hosts("10.0.0.5/32").unwrap(), ["10.0.0.5"]);
        assert_eq!(hosts("10.0.0.5"), None);
        assert_eq!(hosts("http://h/v1"), None);
        for wrong in ["10.0.0.0/8", "10.0.0.0/0", "10.0.0.0/33", "gpu/24"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }
}
