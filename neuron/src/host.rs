//! What the operating system says about the host. Where it does not say, the answer is empty or 0.

use std::fs;

/// The host's name.
pub(crate) fn hostname() -> String {
    first_line("/proc/sys/kernel/hostname").unwrap_or_else(|| "localhost".to_owned())
}

/// `"Linux"` and its release.
pub(crate) fn system() -> (String, String) {
    (
        first_line("/proc/sys/kernel/ostype").unwrap_or_else(|| std::env::consts::OS.to_owned()),
        first_line("/proc/sys/kernel/osrelease").unwrap_or_default(),
    )
}

/// The CPU's model, as its maker calls it.
pub(crate) fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| format!("{} CPU", std::env::consts::ARCH), |(_, name)| name.trim().to_owned())
}

/// Memory in MiB: all that the process could have, and what is free of it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total_mb: u64,
    pub(crate) available_mb: u64,
}

/// The smaller of what the system has and what the control group allows: in a container the first is a lie.
pub(crate) fn memory() -> Memory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_mb = meminfo_kb(&info, "MemTotal:") / 1024;
    let available_mb = meminfo_kb(&info, "MemAvailable:") / 1024;
    let cgroup = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).unwrap_or_default();
    let room = group_room(&cgroup("memory.max"), &cgroup("memory.current"), &cgroup("memory.stat"));
    match room {
        Some((max, room)) => {
            Memory { total_mb: total_mb.min(max >> 20), available_mb: available_mb.min(room >> 20) }
        }
        None => Memory { total_mb, available_mb },
    }
}

/// What a model could have, MiB: of a configured budget, or (0) of what the system has.
pub(crate) fn free_mb(budget_mb: u64) -> u64 {
    if budget_mb == 0 { memory().available_mb } else { budget_mb }
}

/// What the control group allows and what is left of it, bytes, from its files' texts. The page cache counts
/// as used there, but gives way: without it a model that was just downloaded would leave no room for itself.
fn group_room(max: &str, current: &str, stat: &str) -> Option<(u64, u64)> {
    let (max, current): (u64, u64) = (max.trim().parse().ok()?, current.trim().parse().ok()?);
    let field = |name: &str| -> Option<u64> {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    let cache = field("inactive_file").unwrap_or(0) + field("active_file").unwrap_or(0);
    Some((max, max.saturating_sub(current.saturating_sub(cache))))
}

fn meminfo_kb(info: &str, field: &str) -> u64 {
    let value =
        info.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0)
}

fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_by_field() {
        let info = "MemTotal:       24683220 kB\nMemFree:   1 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(meminfo_kb(info, "MemAvailable:"), 23_000_000);
        assert_eq!(meminfo_kb(info, "Nothing:"), 0);
    }

    #[test]
    fn the_page_cache_of_a_group_counts_as_free() {
        let stat = "anon 100\nfile 700\nactive_file_other 9\ninactive_file 500\nactive_file 100\n";
        assert_eq!(group_room("1000\n", "900\n", stat), Some((1000, 700)));
        assert_eq!(group_room("1000\n", "1100\n", ""), Some((1000, 0)));
        assert_eq!(group_room("1000", "500", stat), Some((1000, 1000)));
        assert_eq!(group_room("max\n", "900\n", stat), None);
        assert_eq!(group_room("", "", ""), None);
    }

    #[test]
    fn this_host_has_memory_and_a_name() {
        let memory = memory();
        assert!(memory.total_mb >= memory.available_mb && memory.available_mb > 0);
        assert!(!hostname().is_empty() && !cpu_name().is_empty());
    }
}
