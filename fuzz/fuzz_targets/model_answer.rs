#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cortex::fuzzing::run("model_answer", data));
