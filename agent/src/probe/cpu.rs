//! The processor: its name, the instruction sets that it and the kernel offer, its caches.

use std::fs;
use std::path::Path;

use proto::{ByteSize, Cache};

/// Marketing name of the processor.
pub(super) fn model(root: &Path) -> Option<String> {
    brand().or_else(|| {
        let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).ok()?;
        field(&cpuinfo, "model name").or_else(|| field(&cpuinfo, "Model")).map(str::to_owned)
    })
}

#[cfg(target_arch = "x86_64")]
fn brand() -> Option<String> {
    let brand = raw_cpuid::CpuId::new().get_processor_brand_string()?;
    Some(brand.as_str().trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> Option<String> {
    None
}

/// The most that the kernel lets the first core run at, MHz.
pub(super) fn max_mhz(root: &Path) -> Option<u32> {
    let path = root.join("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq");
    let khz: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(khz / 1000).filter(|&mhz| mhz > 0)
}

/// What decides the clock of the first core, where the kernel does.
pub(super) fn governor(root: &Path) -> Option<String> {
    let path = root.join("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Instruction sets that speed up inference, lower case, sorted. On x86 they count only where the kernel saves their
/// registers too, which is why the standard library's check is asked and not CPUID alone.
#[cfg(target_arch = "x86_64")]
pub(super) fn instruction_sets(_root: &Path) -> Vec<String> {
    macro_rules! detected {
        ($($feature:tt => $name:literal),* $(,)?) => {
            [$((std::arch::is_x86_feature_detected!($feature), $name)),*]
        };
    }
    let sets = detected! {
        "avx" => "avx", "avx2" => "avx2", "avx512bf16" => "avx512_bf16", "avx512vnni" => "avx512_vnni",
        "avx512bw" => "avx512bw", "avx512dq" => "avx512dq", "avx512f" => "avx512f", "avx512vl" => "avx512vl",
        "f16c" => "f16c", "fma" => "fma", "sse2" => "sse2", "sse4.1" => "sse4_1", "sse4.2" => "sse4_2",
    };
    sets.into_iter().filter(|(present, _)| *present).map(|(_, name)| name.to_owned()).collect()
}

/// Instruction sets that speed up inference, lower case, sorted, as the kernel lists them.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn instruction_sets(root: &Path) -> Vec<String> {
    features(&fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default())
}

/// Those of the `Features` line of an ARM `/proc/cpuinfo` that matter to inference.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn features(cpuinfo: &str) -> Vec<String> {
    const KNOWN: [&str; 10] =
        ["asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "neon", "sve", "sve2", "vfpv4"];
    let present = field(cpuinfo, "Features").unwrap_or_default();
    let has = |name: &str| present.split_whitespace().any(|feature| feature == name);
    KNOWN.into_iter().filter(|name| has(name)).map(str::to_owned).collect()
}

/// The first value of a `key : value` line.
fn field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key && !value.trim().is_empty()).then_some(value.trim())
    })
}

/// Caches of core 0: from the kernel, or from CPUID where the kernel shows none.
pub(super) fn caches(root: &Path) -> Vec<Cache> {
    let folder = root.join("sys/devices/system/cpu/cpu0/cache");
    let found: Vec<Cache> =
        (0..16).map_while(|index| read_cache(&folder.join(format!("index{index}")))).collect();
    if found.is_empty() { caches_by_cpuid() } else { found }
}

fn read_cache(folder: &Path) -> Option<Cache> {
    let read = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
    let size = read("size")?;
    let size = size.replace('K', "Ki").replace('M', "Mi").parse::<ByteSize>().ok()?;
    Some(Cache { level: read("level")?.parse().ok()?, kind: read("type")?.to_lowercase(), size })
}

#[cfg(target_arch = "x86_64")]
fn caches_by_cpuid() -> Vec<Cache> {
    use raw_cpuid::CacheType;
    let Some(parameters) = raw_cpuid::CpuId::new().get_cache_parameters() else { return Vec::new() };
    let known = parameters.filter_map(|cache| {
        let kind = match cache.cache_type() {
            CacheType::Data => "data",
            CacheType::Instruction => "instruction",
            CacheType::Unified => "unified",
            CacheType::Null | CacheType::Reserved => return None,
        };
        let lines = cache.sets() * cache.associativity() * cache.physical_line_partitions();
        let size = ByteSize((lines * cache.coherency_line_size()) as u64);
        Some(Cache { level: u32::from(cache.level()), kind: kind.to_owned(), size })
    });
    known.collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn caches_by_cpuid() -> Vec<Cache> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_features_are_read_and_sorted() {
        let cpuinfo =
            "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp\nCPU part\t: 0xd0c\n\nModel : Pi 4\n";
        assert_eq!(features(cpuinfo), ["asimd", "asimddp"]);
        assert_eq!(field(cpuinfo, "Model"), Some("Pi 4"));
        assert_eq!(field(cpuinfo, "model name"), None);
    }

    #[test]
    fn a_governor_is_named_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(governor(root.path()), None);
        let folder = root.path().join("sys/devices/system/cpu/cpu0/cpufreq");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("scaling_governor"), "powersave\n").unwrap();
        fs::write(folder.join("cpuinfo_max_freq"), "1800000\n").unwrap();
        assert_eq!(max_mhz(root.path()), Some(1800));
        assert_eq!(governor(root.path()).as_deref(), Some("powersave"));
    }

    #[test]
    fn caches_are_read_as_the_kernel_shows_them() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/devices/system/cpu/cpu0/cache");
        for (index, level, kind, size) in [(0, "1", "Data", "32K"), (1, "3", "Unified", "32M")] {
            let folder = folder.join(format!("index{index}"));
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in [("level", level), ("type", kind), ("size", size)] {
                fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
        }
        let expected = [
            Cache { level: 1, kind: "data".into(), size: ByteSize(32 << 10) },
            Cache { level: 3, kind: "unified".into(), size: ByteSize(32 << 20) },
        ];
        assert_eq!(caches(root.path()), expected);
    }

    #[test]
    fn this_machine_names_sorted_instruction_sets() {
        let sets = instruction_sets(Path::new("/"));
        assert!(sets.is_sorted() && !sets.is_empty());
    }
}
