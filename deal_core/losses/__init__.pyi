# The names that users may rely on; each is imported when it is first used.
from .clipping import clipped_cross_entropy
from .depth_edge import DepthEdgeAlignmentLoss, DepthEdgeOptions, depth_edge_alignment_loss
from .equivariance import equivariant_cross_regularization_loss, equivariant_regularization_loss
from .feature_similarity import FeatureSimilarityLoss, feature_similarity_loss
from .importance_sampling import ImportanceSamplingLoss, importance_sampling_loss
from .seeds import seed_loss
from .tags import tag_loss

__all__ = [
    "DepthEdgeAlignmentLoss",
    "DepthEdgeOptions",
    "FeatureSimilarityLoss",
    "ImportanceSamplingLoss",
    "clipped_cross_entropy",
    "depth_edge_alignment_loss",
    "equivariant_cross_regularization_loss",
    "equivariant_regularization_loss",
    "feature_similarity_loss",
    "importance_sampling_loss",
    "seed_loss",
    "tag_loss",
]
