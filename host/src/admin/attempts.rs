//! Wrong keys by the address that they came from: guessing is slow.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Wrong keys that an address may send in one go.
const BURST: u32 = 10;
/// And one more after each such time.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are remembered. With more at once the ones that have waited longest are let off.
const REMEMBERED: usize = 4096;

/// How much each address owes.
#[derive(Default)]
pub struct Attempts {
    /// When what the address has used up will have come back.
    debts: Mutex<HashMap<IpAddr, Instant>>,
    /// SHA-256 of keys that were right, with where they came from.
    right: Mutex<HashSet<(IpAddr, [u8; 32])>>,
}

impl Attempts {
    /// How long until another may come from there; `None`: now.
    pub(super) fn must_wait(&self, from: IpAddr, digest: &[u8; 32]) -> Option<Duration> {
        let now = Instant::now();
        let paid = *self.lock().get(&net(from))?;
        if self.right().contains(&(net(from), *digest)) {
            return None;
        }
        paid.checked_duration_since(now + REFILL * (BURST - 1)).filter(|wait| !wait.is_zero())
    }

    pub(super) fn note(&self, from: IpAddr) {
        let now = Instant::now();
        let mut debts = self.lock();
        if debts.len() >= REMEMBERED {
            debts.retain(|_, paid| *paid > now);
        }
        if debts.len() >= REMEMBERED
            && let Some(least) = debts.iter().min_by_key(|(_, paid)| **paid).map(|(from, _)| *from)
        {
            debts.remove(&least);
        }
        let paid = debts.entry(net(from)).or_insert(now);
        *paid = (*paid).max(now) + REFILL;
    }

    /// From there this key goes on being let in.
    pub(super) fn was_right(&self, from: IpAddr, digest: [u8; 32]) {
        let mut right = self.right();
        if right.len() >= REMEMBERED {
            right.clear();
        }
        right.insert((net(from), digest));
    }

    fn right(&self) -> MutexGuard<'_, HashSet<(IpAddr, [u8; 32])>> {
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One owner has a whole /64 of IPv6.
fn net(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_wrong_keys_an_address_waits_and_others_do_not() {
        let attempts = Attempts::default();
        let [guesser, other]: [IpAddr; 2] =
            ["2001:db8::1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
        for _ in 0..BURST {
            assert_eq!(attempts.must_wait(guesser, &[1; 32]), None);
            attempts.note(guesser);
        }
        let wait = attempts.must_wait("2001:db8::2".parse().unwrap(), &[1; 32]).unwrap();
        assert!(wait <= REFILL, "{wait:?}");
        assert_eq!(attempts.must_wait(other, &[1; 32]), None);
        attempts.was_right(guesser, [2; 32]);
        assert_eq!(attempts.must_wait(guesser, &[2; 32]), None, "who was right before goes on");
        for last in 0..9000u32 {
            attempts.note(IpAddr::from(std::net::Ipv4Addr::from(last)));
        }
        assert!(attempts.lock().len() <= REMEMBERED);
        assert!(
            attempts.must_wait(guesser, &[1; 32]).is_some(),
            "the worst is not forgotten for many small ones"
        );
    }
}
