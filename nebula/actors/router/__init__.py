"""The router: which replica gets a request, and what is decided from what is seen."""
