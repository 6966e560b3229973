#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerage_discovery_fuzz::txt::txt_records(data));
