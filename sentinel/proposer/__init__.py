"""Turns the Controller's directive into executable tasks: gold first, words last, then the gates."""
