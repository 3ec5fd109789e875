//! Decides which proxies probe which endpoint. The decision depends only on published data, so every program comes to the same one.
//!
//! Highest random weight hashing (Thaler and Ravishankar, 1998): every proxy has a score for every endpoint, and the proxies with the
//! highest scores probe it. When a proxy joins or leaves, only the endpoints that it probes itself move.

use std::collections::BTreeMap;

/// The proxies that may probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet(Vec<Member>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    name: String,
    zone: Option<String>,
    hash: u64,
}

impl Fleet {
    /// The proxies of these names, with their zones.
    pub fn new(members: impl IntoIterator<Item = (String, Option<String>)>) -> Self {
        Self(members.into_iter().map(|(name, zone)| Member { hash: hash(&name), name, zone }).collect())
    }

    /// The proxies that probe an endpoint (`BACKEND/ID`), at most `count`: the best of the endpoint's own zone first, then the best of
    /// every other zone, then the second best of each, so that no zone decides alone if there are several.
    pub fn probers(&self, endpoint: &str, zone: Option<&str>, count: usize) -> Vec<&str> {
        let own = hash(endpoint);
        let mut scored: Vec<(u64, &Member)> = self.0.iter().map(|member| (mix(own ^ member.hash), member)).collect();
        scored.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
        let mut places: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, bool, &str)> = scored
            .into_iter()
            .map(|(_, member)| {
                let place = places.entry(member.zone.as_deref()).or_default();
                *place += 1;
                (*place, zone.is_none() || member.zone.as_deref() != zone, member.name.as_str())
            })
            .collect();
        // The sort is stable, so within one place the order of the scores remains.
        ranked.sort_by_key(|(place, elsewhere, _)| (*place, *elsewhere));
        ranked.into_iter().take(count).map(|(_, _, name)| name).collect()
    }
}

/// FNV-1a, 64 bits.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The finalizer of SplitMix64: similar names get very different scores.
const fn mix(seed: u64) -> u64 {
    let a = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(count: usize, zones: &[&str]) -> Fleet {
        let member = |number: usize| (format!("proxy-{number}"), zones.get(number % zones.len().max(1)).map(|zone| (*zone).to_owned()));
        Fleet::new((0..count).map(member))
    }

    #[test]
    fn every_endpoint_has_its_number_of_probers_and_every_proxy_its_share() {
        let fleet = fleet(10, &[]);
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        for number in 0..1_000 {
            let chosen = fleet.probers(&format!("shop/{number}"), None, 3);
            assert_eq!(chosen.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
            chosen.into_iter().for_each(|name| *shares.entry(name).or_default() += 1);
        }
        assert!(shares.values().all(|share| (230..=370).contains(share)), "{shares:?}");
    }

    #[test]
    fn only_the_endpoints_of_a_proxy_that_leaves_get_another_prober() {
        let before = fleet(10, &[]);
        let mut after = before.clone();
        after.0.retain(|member| member.name != "proxy-4");
        for number in 0..200 {
            let name = format!("shop/{number}");
            let (old, new) = (before.probers(&name, None, 3), after.probers(&name, None, 3));
            let stayed = old.iter().filter(|prober| new.contains(prober)).count();
            assert_eq!(stayed, if old.contains(&"proxy-4") { 2 } else { 3 });
        }
    }

    #[test]
    fn zones_take_turns_and_the_endpoints_own_begins() {
        let fleet = fleet(9, &["a", "b", "c"]);
        for number in 0..50 {
            let chosen = fleet.probers(&format!("shop/{number}"), Some("b"), 4);
            let zones: Vec<&str> =
                chosen.iter().map(|name| fleet.0.iter().find(|member| member.name == **name).and_then(|member| member.zone.as_deref()).unwrap()).collect();
            assert_eq!(zones[0], "b");
            assert_eq!(zones[..3].iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{zones:?}");
            assert_eq!(zones[3], "b");
        }
        assert_eq!(Fleet::default().probers("shop/a", Some("nowhere"), 5), Vec::<&str>::new());
    }
}
