"""The service: pictures and questions over HTTP, in several protocols. One file for each of them."""
