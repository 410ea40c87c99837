"""HTTP/1.1 and WebSockets on sockets: from bytes to ASGI, and back, within bounds."""
