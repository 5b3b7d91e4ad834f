#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| backstop::fuzzing::issuer_answers(input));
