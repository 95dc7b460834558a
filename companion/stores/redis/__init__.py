"""What replicas share in Redis: leases, counters, the inbox and its checkpoints, word of what changed."""

from companion.stores.redis.client import NAME, RedisClient, RedisConfig, open_redis

__all__ = ["NAME", "RedisClient", "RedisConfig", "open_redis"]
