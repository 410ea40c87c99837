"""The OpenAPI document of a gateway, and the page made of it."""
