"""A change of an entity becomes messages on topics, each acknowledged by the broker before the position moves."""
