"""The gateway: passes requests on to routers, and brings answers to clients whatever fails."""
