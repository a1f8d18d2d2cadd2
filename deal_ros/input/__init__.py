"""Image input of a node: subscriptions, QoS, stamps, pairing and conversion to arrays."""
