"""What clients see while engines, routers, gateways and NATS are killed under them."""
