//! Sets of packets: prefixes, ports, protocols, ICMP types; union, intersection, difference, a witness packet.
