"""The embedded MQTT broker: amqtt in this process, and the same HTTP hooks asked in the same words as EMQX asks them.

It is there so that one command shows everything working, and for tests and small gateways. It speaks MQTT 3.1.1. Importing this
package never needs amqtt; starting an `EmbeddedBroker` does, and says so (`EmbeddedBrokerUnavailable`).
"""

from companion.embedded.broker import EmbeddedBroker, EmbeddedBrokerUnavailable, require_amqtt
from companion.embedded.config import EmbeddedBrokerConfig

__all__ = ["EmbeddedBroker", "EmbeddedBrokerConfig", "EmbeddedBrokerUnavailable", "require_amqtt"]
