"""Models: how they are trained, kept, monitored and served.

Imports point one way: evaluate <- serve <- registry <- monitor <- train. No module here knows
Kafka. What serves (serve and registry) imports neither scikit-learn nor pandas.
"""
