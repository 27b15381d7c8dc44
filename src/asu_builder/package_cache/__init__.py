"""Packages that were fetched once, for all builds: what lies behind the proxy of builds."""
