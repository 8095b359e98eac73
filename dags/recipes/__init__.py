"""Dags that come with the project, one function each, and how a name finds one."""
