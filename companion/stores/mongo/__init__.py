"""What replicas share in MongoDB: accounts, rules, sessions, audits."""

from companion.stores.mongo.client import NAME, MongoClient, MongoConfig, open_mongo

__all__ = ["NAME", "MongoClient", "MongoConfig", "open_mongo"]
