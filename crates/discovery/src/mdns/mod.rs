//! Browse and advertise by multicast DNS.
