"""Files of requests, and several of them streamed at once."""
