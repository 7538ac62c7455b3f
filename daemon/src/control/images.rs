//! The image store, for `rbuildctl images` and `rmi`.

use rbuild_api::rbuild::v1 as wire;
use rbuild_api::rbuild::v1::images_server::Images;
use rbuild_oci::ImageRef;
use tonic::{Request, Response, Status};

use super::{ControlService, Reply};

#[tonic::async_trait]
impl Images for ControlService {
    async fn list(&self, _request: Request<wire::ListImagesRequest>) -> Reply<wire::ListImagesResponse> {
        let images = self.builder.store().images().map_err(|error| Status::unknown(error.to_string()))?;
        let images = images.into_iter().map(|image| wire::Image {
            name: image.name,
            digest: image.target.digest.to_string(),
            media_type: image.target.media_type,
            size: i64::try_from(image.size).unwrap_or(i64::MAX),
            created_at: super::timestamp(image.created_ms),
        });
        Ok(Response::new(wire::ListImagesResponse { images: images.collect() }))
    }

    async fn remove(&self, request: Request<wire::RemoveImageRequest>) -> Reply<wire::RemoveImageResponse> {
        let name = request.into_inner().name;
        let parsed = ImageRef::parse(&name)
            .map_err(|error| Status::invalid_argument(format!("image name `{name}`: {error}")))?;
        let canonical = parsed.tag_or_latest().to_string();
        let store = self.builder.store();
        let removed =
            store.delete_image(&canonical).await.map_err(|error| Status::unknown(error.to_string()))?;
        match removed {
            true => Ok(Response::new(wire::RemoveImageResponse {})),
            false => Err(Status::not_found(format!("no image is called {canonical}"))),
        }
    }
}
