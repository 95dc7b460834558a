"""The preserver: EMQX asks whether a client may connect, publish and subscribe; we answer."""
