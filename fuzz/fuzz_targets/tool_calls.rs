#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| neuron::fuzzing::run("tool_calls", data));
