"""Images on their way into a node: subscriptions, QoS, stamps, pairing and conversion to arrays."""
