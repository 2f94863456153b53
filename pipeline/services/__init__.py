"""The verbs: what people, programs and clocks can do. One transaction each; every face calls these and has no logic of its own."""
