//! EC2 Query and instance metadata: generated wire types, encode and decode, the signed client.
