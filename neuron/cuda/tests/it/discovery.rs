//! NVML as it answers, by a library of the test's own under its name: there are hosts without GPUs.

use std::{path::PathBuf, process::Command};

use neuron_cuda::discovery::{Condition, Driver, Gpu, Nvml};

/// Functions as `nvml.h` declares them, of a host with two GPUs. `init` is what starting it returns.
fn library(folder: &tempfile::TempDir, init: i32) -> PathBuf {
    let source = format!(
        r#"
        #include <string.h>
        typedef struct {{ unsigned long long total, free, used; }} Memory;
        typedef struct {{ unsigned gpu, memory; }} Rates;
        static int devices[2];
        int nvmlInit_v2(void) {{ return {init}; }}
        int nvmlShutdown(void) {{ return 0; }}
        int nvmlSystemGetDriverVersion(char* out, unsigned len) {{ strncpy(out, "580.65.06", len); return 0; }}
        int nvmlSystemGetCudaDriverVersion_v2(int* out) {{ *out = 13010; return 0; }}
        int nvmlDeviceGetCount_v2(unsigned* out) {{ *out = 3; return 0; }}
        int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** out) {{ if (i > 1) return 6; *out = devices + i; return 0; }}
        int nvmlDeviceGetName(void* d, char* out, unsigned len) {{
            memset(out, 'x', len); if (d == devices) strncpy(out, "NVIDIA H100 80GB HBM3", len); return 0; }}
        int nvmlDeviceGetUUID(void* d, char* out, unsigned len) {{ strncpy(out, "GPU-1", len); return 0; }}
        int nvmlDeviceGetMemoryInfo(void* d, Memory* out) {{
            out->total = 81559ull << 20; out->free = 80000ull << 20; out->used = 0; return 0; }}
        int nvmlDeviceGetCudaComputeCapability(void* d, int* major, int* minor) {{ *major = 9; *minor = 0; return 0; }}
        int nvmlDeviceGetUtilizationRates(void* d, Rates* out) {{
            if (d != devices) return 3; out->gpu = 97; out->memory = 40; return 0; }}
        int nvmlDeviceGetTemperature(void* d, unsigned sensor, unsigned* out) {{ *out = 61 + sensor; return 0; }}
        "#
    );
    let (code, library) = (folder.path().join("nvml.c"), folder.path().join("libnvidia-ml.so.1"));
    std::fs::write(&code, source).unwrap();
    let done =
        Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(&code).status().unwrap();
    assert!(done.success());
    library
}

#[test]
fn gpus_are_told_of_as_nvml_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let nvml = Nvml::start_from(&library(&folder, 0)).unwrap();
    assert_eq!(nvml.driver(), Driver { version: "580.65.06".to_owned(), cuda: "13.1".to_owned() });
    let gpus = nvml.gpus();
    // The third cannot be asked.
    assert_eq!(gpus.len(), 2);
    assert_eq!(
        gpus[0],
        Gpu {
            index: 0,
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            uuid: "GPU-1".to_owned(),
            capability: (9, 0),
            total_mb: 81559
        }
    );
    // A name without an end is cut at the buffer's.
    assert_eq!(gpus[1].name, "x".repeat(127));
    let busy = Condition { free_mb: Some(80000), utilization_percent: Some(97), temperature: Some(61) };
    assert_eq!(nvml.condition(0), busy);
    assert_eq!(nvml.condition(1), Condition { utilization_percent: None, ..busy });
    assert_eq!(nvml.condition(2), Condition::default());
}

#[test]
fn what_keeps_nvml_from_starting_is_said() {
    let cases = [(18, "kernel module was not"), (9, "not loaded"), (999, "its error 999")];
    for (code, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = Nvml::start_from(&library(&folder, code)).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = Nvml::start_from(&folder.path().join("libnvidia-ml.so.1")).unwrap_err();
    assert!(missing.contains("libnvidia-ml.so.1"), "{missing}");
    // One that lacks what is asked of it.
    let code = folder.path().join("old.c");
    std::fs::write(&code, "int nvmlInit_v2(void) { return 0; }").unwrap();
    let old = folder.path().join("old.so");
    assert!(
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&old).arg(&code).status().unwrap().success()
    );
    let error = Nvml::start_from(&old).unwrap_err();
    assert!(error.contains("nvmlShutdown"), "{error}");
}
