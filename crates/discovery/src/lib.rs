//! Who the peers of a service are: mDNS, static lists and files in one consistent table
