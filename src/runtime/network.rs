//! How other computers may reach this one. Opens no connection.

use std::io;
use std::net::IpAddr;

/// The addresses of this computer's interfaces that others may reach: no loopback, and none that means something on one
/// link alone. Those of IPv4 come first.
///
/// # Errors
/// The system does not list them.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let all = if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip());
    let mut found: Vec<IpAddr> = all.filter(|address| is_reachable(*address)).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

fn is_reachable(address: IpAddr) -> bool {
    let on_one_link = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || on_one_link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_computer_or_one_link_are_left_out() {
        for (address, is_left_in) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.3.4", false),
            ("fe80::1", false),
            ("10.1.2.3", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(is_reachable(address.parse().expect("an address")), is_left_in, "{address}");
        }
        assert!(addresses().expect("the system lists them").is_sorted());
    }
}
