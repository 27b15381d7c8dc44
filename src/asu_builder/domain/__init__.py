"""What a build is: values and rules, without I/O, clock or framework."""
