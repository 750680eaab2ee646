"""What goes over HTTP: the bodies and the problems of the API, for the server and for the client."""
