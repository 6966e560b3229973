#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerage_zaphttp_fuzz::conn::zap_conn_server(data));
