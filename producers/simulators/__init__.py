"""Stand-alone fronts of the models that tests and the demo use in process. Never part of a production installation."""
