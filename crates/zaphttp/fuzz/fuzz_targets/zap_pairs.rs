#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerage_zaphttp_fuzz::wire::zap_pairs(data));
