"""What replicas share in Redis: leases, counters, the inbox and its checkpoints, word of what changed."""

from companion.stores.redis.client import RedisClient, RedisConfig, open_redis

__all__ = ["RedisClient", "RedisConfig", "open_redis"]
