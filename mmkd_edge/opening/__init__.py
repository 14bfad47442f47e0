"""A bundle becomes opened students: verify, choose a config, load, self-test; and another bundle takes their place."""
