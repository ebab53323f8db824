"""What a job consists of in a cluster: pure builders of Kubernetes objects."""
