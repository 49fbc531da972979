//! How much memory is free, as Linux says: of the machine, and of the control group of a container.

use std::fs;

/// What is taken to be free where the system does not say.
const UNKNOWN: u64 = 4 << 30;

/// Bytes that can be used without taking them from other programs.
pub(super) fn free_bytes() -> u64 {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|meminfo| available(&meminfo));
    let [most, used] = ["max", "current"].map(|name| read(&format!("/sys/fs/cgroup/memory.{name}")));
    let group = most.zip(used).and_then(|(most, used)| left(&most, &used));
    machine.into_iter().chain(group).min().unwrap_or(UNKNOWN)
}

/// `MemAvailable` of /proc/meminfo.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What a control group may still use; `None` where it has no limit.
fn left(most: &str, used: &str) -> Option<u64> {
    let [most, used] = [most, used].map(|number| number.trim().parse::<u64>().ok());
    Some(most?.saturating_sub(used?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_read() {
        let meminfo = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!(available(meminfo), Some(20_480_000 * 1024));
        assert_eq!(available("MemTotal: 24576000 kB\n"), None);
        assert_eq!(left("max\n", "5\n"), None);
        assert_eq!((left("100\n", "30\n"), left("100\n", "130\n")), (Some(70), Some(0)));
        assert!(free_bytes() > 0);
    }
}
